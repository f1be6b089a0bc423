"""Margin, entropy and prediction are those of numpy in double precision, also where p is near 1."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy
from torch import nn

from raysb import losses
from raysb.scoring.scores import (
    columns_of,
    entropy,
    label_margin,
    log_probabilities,
    margin,
    no_loss,
    prediction,
)
from raysb.task import Task, inputs


def logits(rows: int, classes: int, scale: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, classes)) * scale).astype(np.float32)


def expected(z: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """In float64, by sorting and by taking the label's column out."""
    p = softmax(z.astype(np.float64), axis=1)
    ranked = np.sort(p, axis=1)
    rows = np.arange(len(z))
    others = p.copy()
    others[rows, labels] = -1
    return {
        "margin": ranked[:, -1] - ranked[:, -2],
        "label_margin": p[rows, labels] - others.max(1),
        "entropy": scipy_entropy(p, axis=1),
    }


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(2, 30),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 5.0, 20.0, 60.0]),
    seed=st.integers(0, 10**6),
)
def test_they_are_those_of_double_precision_at_any_confidence(classes, scale, seed) -> None:
    z = logits(40, classes, scale, seed)
    labels = np.random.default_rng(seed).integers(0, classes, 40)
    tensor = torch.from_numpy(z)
    wanted = expected(z, labels)
    # what is rounded in a logit of size |z| moves a probability by |z| 1e-7 of itself
    close = {"rtol": 2e-5, "atol": 1e-7 * max(scale, 1)}
    np.testing.assert_allclose(margin(tensor), wanted["margin"], **close)
    found = label_margin(tensor, torch.from_numpy(labels))
    np.testing.assert_allclose(found, wanted["label_margin"], **close)
    # below 1e-14 it is float64 that cannot tell 1 - p from 0
    np.testing.assert_allclose(entropy(tensor), wanted["entropy"], rtol=2e-5, atol=1e-14)
    np.testing.assert_array_equal(prediction(tensor), z.argmax(1))


def test_the_entropy_of_a_nearly_certain_row_keeps_its_relative_precision() -> None:
    """log_softmax in float32 rounds the largest probability to 1 and loses a part of the rest."""
    z = np.array([[20.0, 0.0, 1.0]], np.float32)
    exact = scipy_entropy(softmax(z.astype(np.float64), axis=1), axis=1)
    np.testing.assert_allclose(entropy(torch.from_numpy(z)), exact, rtol=1e-6)
    plain = torch.from_numpy(z).log_softmax(1)
    assert abs(float(-(plain.exp() * plain).sum()) / exact[0] - 1) > 1e-3


def test_log_probabilities_are_those_of_scipy() -> None:
    z = logits(50, 7, 4.0)
    wanted = log_softmax(z.astype(np.float64), axis=1)
    np.testing.assert_allclose(log_probabilities(torch.from_numpy(z)), wanted, rtol=1e-5)


def test_a_class_that_is_ruled_out_adds_nothing() -> None:
    z = torch.tensor([[1.0, -torch.inf, 0.5]])
    two = torch.tensor([[1.0, 0.5]])
    assert entropy(z).item() == pytest.approx(entropy(two).item(), rel=1e-6)
    assert margin(z).item() == pytest.approx(margin(two).item(), rel=1e-6)
    assert label_margin(z, torch.tensor([1])).item() == pytest.approx(-two.softmax(1).max().item())


def test_equal_classes_have_no_margin_the_largest_entropy_and_the_first_is_predicted() -> None:
    z = torch.full((1, 8), 3.0)
    assert margin(z).item() == label_margin(z, torch.tensor([5])).item() == 0
    assert entropy(z).item() == pytest.approx(np.log(8), rel=1e-6)
    assert prediction(z).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_first(dtype) -> None:
    z = torch.from_numpy(logits(20, 5, 2.0)).to(dtype)
    for score in (margin, entropy):
        assert score(z).dtype == torch.float32
        torch.testing.assert_close(score(z), score(z.float()), rtol=0, atol=0)
    assert margin(z.double()).dtype == torch.float64


def test_a_label_of_any_integer_type_will_do() -> None:
    z, labels = torch.from_numpy(logits(9, 4, 1.0)), torch.arange(9) % 4
    found = [label_margin(z, labels.to(t)) for t in (torch.uint8, torch.int32, torch.int64)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_the_label_margin_is_negative_where_the_prediction_is_wrong_and_the_margin_never() -> None:
    z, labels = torch.from_numpy(logits(200, 6, 2.0)), torch.arange(200) % 6
    wrong = prediction(z) != labels
    found = label_margin(z, labels)
    assert 0 < wrong.sum() < 200
    assert bool((found[wrong] < 0).all())
    torch.testing.assert_close(found[~wrong], margin(z)[~wrong])
    assert bool((margin(z) >= 0).all())


CLASSES = {"margin", "entropy", "prediction"}
INTEGERS, FLOATS = torch.arange(6) % 3, torch.rand(6)


def own(outputs, batch):
    return outputs.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("shape", "loss", "label", "wanted"),
    [
        ((6, 3), losses.cross_entropy(), INTEGERS, {"loss", "correct", "label_margin", *CLASSES}),
        ((6, 3), losses.cross_entropy(), torch.rand(6, 3), {"loss", "correct", *CLASSES}),
        (
            (6, 3),
            losses.torch_loss("NLLLoss"),
            INTEGERS,
            {"loss", "correct", "label_margin", *CLASSES},
        ),
        ((6, 3), own, INTEGERS, {"loss", "label_margin", *CLASSES}),
        ((6, 3), own, None, {"loss", "prediction"}),
        ((6, 3), losses.mse(), torch.rand(6, 3), {"loss", "prediction"}),
        ((6, 1), losses.mse(), INTEGERS, {"loss", "prediction"}),
        ((6,), losses.torch_loss("HuberLoss"), FLOATS, {"loss", "prediction"}),
        ((6, 3), no_loss, None, CLASSES),
        ((6, 1), no_loss, None, {"prediction"}),
        (
            (6, 4, 3),
            losses.sequence_cross_entropy("label"),
            torch.zeros(6, 4).long(),
            {"loss", "correct"},
        ),
        ((6, 4, 3), no_loss, None, set()),
    ],
)
def test_the_columns_that_make_sense_follow_from_outputs_loss_and_label(
    shape, loss, label, wanted
) -> None:
    outputs = torch.randn(shape)
    batch = {"x": torch.rand(6, 2)} | ({} if label is None else {"label": label})
    task = Task(model=lambda: nn.Identity(), forward=inputs("x"), loss=loss)
    found = columns_of(task, outputs, batch, target=None if label is None else "label")
    assert set(found) == wanted
    values = {name: column(outputs, batch) for name, column in found.items()}
    assert all(len(v) == 6 for v in values.values())
    whole = CLASSES <= wanted
    if "prediction" in values:
        assert values["prediction"].is_floating_point() != whole


def test_outputs_of_a_regression_without_labels_are_no_classes() -> None:
    task = Task(model=lambda: nn.Identity(), forward=inputs("x"), loss=no_loss)
    batch, outputs = {"x": torch.rand(6, 2)}, torch.rand(6, 3)
    found = columns_of(task, outputs, batch, target=None, classes=False)
    assert torch.equal(found["prediction"](outputs, batch), outputs)
    assert set(found) == {"prediction"}
