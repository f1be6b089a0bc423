"""Scores by name: what each is, which way round, what it asks for."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from raysb import losses
from raysb.errors import ModelError
from raysb.schema import ID
from raysb.scoring.forward import score
from raysb.scoring.gradient_norm import GradientNormBound
from raysb.scoring.registry import SCORES, find_score
from raysb.scoring.scores import Score
from raysb.task import Task, inputs

ROWS = 150  # more than are scored at once


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(ROWS, 4)).astype(np.float32) * 2,
        "label": rng.integers(0, 4, ROWS),
        "irreducible_loss": rng.exponential(size=ROWS).astype(np.float32),
        ID: np.arange(ROWS),
    }


def task(loss=None, **args) -> Task:
    return Task(model=nn.Identity, forward=inputs("x"), loss=loss or losses.cross_entropy(), **args)


def ranked(by, batch=None, **args) -> np.ndarray:
    found = score(task(**args), nn.Identity(), batch or data(), by=find_score(by))
    assert found.scores.dtype == np.float32
    assert found.scores.shape == (ROWS,)
    return found.scores


def expected(name: str) -> np.ndarray:
    z, labels = data()["x"].astype(np.float64), data()["label"]
    p, rows = softmax(z, axis=1), np.arange(ROWS)
    loss = -log_softmax(z, axis=1)[rows, labels]
    top = np.sort(p, axis=1)
    away = np.linalg.norm(p - np.eye(4)[labels], axis=1)
    return {
        "loss": loss,
        "gradient_norm_bound": away,
        "entropy": -(p * np.log(p)).sum(1),
        "margin": top[:, -2] - top[:, -1],
        "el2n": away,
        "reducible_loss": loss - data()["irreducible_loss"],
    }[name]


@pytest.mark.parametrize("name", SCORES)
def test_each_is_that_of_double_precision_in_numpy(name) -> None:
    np.testing.assert_allclose(ranked(name), expected(name), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(SCORES.keys() - {"reducible_loss"}))
def test_the_less_a_row_is_known_the_higher_it_is_ranked(name) -> None:
    """Of rows that are right with rising confidence every score falls, also the margin's."""
    z = np.zeros((ROWS, 4), np.float32)
    z[:, 1] = np.linspace(0.1, 12, ROWS)
    found = ranked(name, {"x": z, "label": np.ones(ROWS, np.int64)})
    assert (np.diff(found) <= 0).all()
    assert found[0] > found[-1]


@pytest.mark.parametrize("by", [None, SCORES["loss"]])
def test_losses_that_are_ranked_are_the_very_same_array(by) -> None:
    found = score(task(), nn.Identity(), data(), by=by)
    assert found.scores is found.losses
    few = score(task(), nn.Identity(), {k: v[:9] for k, v in data().items()}, by=by)
    assert few.scores is few.losses
    other = score(task(), nn.Identity(), data(), by=SCORES["entropy"])
    assert other.scores is not other.losses
    np.testing.assert_array_equal(other.losses, found.losses)


def confidence(outputs, batch):
    return -outputs.softmax(1)[torch.arange(len(outputs)), batch["label"]]


def test_a_function_of_ones_own_is_a_score_by_itself_or_by_its_import_path() -> None:
    wanted = -softmax(data()["x"].astype(np.float64), axis=1)[np.arange(ROWS), data()["label"]]
    np.testing.assert_allclose(ranked(confidence), wanted, rtol=1e-5)
    assert find_score(confidence).name == "confidence"
    by_path = find_score("torch.linalg:vector_norm")
    assert by_path.name == "torch.linalg:vector_norm"


@pytest.mark.parametrize("by", [*SCORES, confidence], ids=lambda by: getattr(by, "__name__", by))
def test_scores_pass_between_processes(by) -> None:
    found = find_score(by)
    copy = pickle.loads(pickle.dumps(found))
    assert copy.name == found.name
    batch = data()
    first, second = (score(task(), nn.Identity(), batch, by=each) for each in (found, copy))
    np.testing.assert_array_equal(first.scores, second.scores)


def test_half_precision_scores_are_float32() -> None:
    model = nn.Linear(4, 4)
    found = score(task(), model, data(), by=SCORES["entropy"], dtype="bfloat16")
    assert found.scores.dtype == np.float32


def test_the_nearest_right_name_is_told() -> None:
    with pytest.raises(ValueError, match=r"selector.score='entropie': unknown.*mean 'entropy'"):
        find_score("entropie", key="selector.score")
    with pytest.raises(ValueError, match=r"did you mean 'gradient_norm_bound'"):
        find_score("gradient_norm")
    with pytest.raises(TypeError, match="cannot be called"):
        find_score("math:pi")


def test_only_the_gradient_has_a_module() -> None:
    found = find_score("gradient_norm_bound", at="head")
    assert isinstance(found, GradientNormBound)
    assert found.at == "head"
    assert SCORES["gradient_norm_bound"].at is None
    with pytest.raises(ValueError, match="score=loss, at='head': only gradient_norm_bound"):
        find_score("loss", at="head")
    assert find_score(found) is found


@pytest.mark.parametrize("values", [lambda o, b: o, lambda o, b: o.sum(), lambda o, b: 1.0])
def test_a_score_that_is_not_one_value_per_row_is_refused(values) -> None:
    with pytest.raises(ModelError, match="for a batch of 64 rows; one value per row is needed"):
        score(task(), nn.Identity(), data(), by=find_score(values))


@pytest.mark.parametrize("name", ["entropy", "margin", "el2n"])
def test_scores_of_classes_are_refused_where_there_are_none(name) -> None:
    batch = data() | {"label": data()["x"]}
    with pytest.raises(ModelError, match=rf"score {name} needs logits .* the loss is MSE"):
        score(task(losses.mse()), nn.Identity(), batch, by=find_score(name))
    sequences = {"x": np.zeros((9, 5, 4), np.float32), "labels": np.zeros((9, 5), np.int64)}
    with pytest.raises(ModelError, match=r"here the model's outputs are \[9, 5, 4\]"):
        score(task(losses.sequence_cross_entropy()), nn.Identity(), sequences, by=find_score(name))


def test_el2n_takes_distributions_too_and_asks_for_a_label_where_the_loss_names_none() -> None:
    q = np.random.default_rng(1).dirichlet(np.ones(4), ROWS).astype(np.float32)
    found = ranked("el2n", {"x": data()["x"], "label": q}, loss=losses.soft_cross_entropy())
    wanted = np.linalg.norm(softmax(data()["x"].astype(np.float64), axis=1) - q, axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

    def own(outputs, batch):
        return outputs.sum(1)

    with pytest.raises(ModelError, match="names no column with one class a row; columns: x float"):
        ranked("el2n", loss=own)


def only_x(batch):
    return {"x": batch["x"]}


def test_the_irreducible_loss_survives_a_collate_that_keeps_only_what_the_model_sees() -> None:
    def own(outputs, batch):
        return outputs.sum(1)

    found = ranked("reducible_loss", loss=own, collate=only_x)
    wanted = data()["x"].sum(1) - data()["irreducible_loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert SCORES["reducible_loss"].columns == ("irreducible_loss",)


def test_a_missing_irreducible_loss_is_told_with_the_way_to_get_it() -> None:
    batch = data()
    del batch["irreducible_loss"]
    with pytest.raises(ModelError, match=r"needs a column 'irreducible_loss' .* `raysb score`"):
        ranked("reducible_loss", batch)


def test_every_score_has_its_name_and_one_entry() -> None:
    assert all(isinstance(each, Score) and each.name == name for name, each in SCORES.items())
