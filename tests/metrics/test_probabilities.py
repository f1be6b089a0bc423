"""Log loss and top-k accuracy against scikit-learn, over drawn scores."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb import metrics

sys.path.insert(0, str(Path(__file__).parent))
from draws import labels, scores, weights


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_log_loss_is_that_of_sklearn(data) -> None:
    (true,) = data.draw(labels(sides=1))
    classes = int(data.draw(st.integers(max(true.max() + 1, 2), 5)))
    proba = data.draw(scores(len(true), classes))
    proba[0] = np.eye(classes)[data.draw(st.integers(0, classes - 1))]  # a zero is clipped
    proba = proba.astype(data.draw(st.sampled_from([np.float64, np.float32])))
    words = {
        "normalize": data.draw(st.booleans()),
        "sample_weight": data.draw(weights(len(true))),
        "labels": list(range(classes)),
    }
    ours = metrics.log_loss(true, proba, **words)
    assert ours == pytest.approx(oracle.log_loss(true, proba, **words), rel=1e-6)
    if classes == 2:
        assert metrics.log_loss(true, proba[:, 1], **words) == pytest.approx(ours, rel=1e-6)


def test_log_loss_is_the_cross_entropy_of_torch() -> None:
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = torch.arange(50) % 4
    expected = torch.nn.functional.cross_entropy(logits, true).item()
    assert metrics.log_loss(true, logits.softmax(1)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_brier_score_is_that_of_sklearn(data) -> None:
    (true,) = data.draw(labels(sides=1))
    classes = int(data.draw(st.integers(max(true.max() + 1, 2), 5)))
    proba = data.draw(scores(len(true), classes))
    words = {
        "sample_weight": data.draw(weights(len(true))),
        "scale_by_half": data.draw(st.sampled_from(["auto", True, False])),
    }
    every = {"labels": list(range(classes))}
    ours = metrics.brier_score_loss(true, proba, **words, **every)
    assert ours == pytest.approx(oracle.brier_score_loss(true, proba, **words, **every), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_brier_score_of_one_probability_a_row_is_that_of_sklearn(data) -> None:
    (true,) = data.draw(labels(sides=1, most=2))
    kind = data.draw(st.sampled_from([(0, 1), (-1, 1), (3, 7), ("no", "yes")]))
    true, proba = np.array(kind)[true], data.draw(scores(len(true), 2))[:, 0]
    pos_label = data.draw(st.sampled_from(kind if kind[0] == "no" else (None, *kind)))
    words = {"sample_weight": data.draw(weights(len(true))), "pos_label": pos_label}
    ours = metrics.brier_score_loss(true, proba, **words)
    assert ours == pytest.approx(oracle.brier_score_loss(true, proba, **words), rel=1e-9)


@pytest.mark.parametrize(
    ("true", "words", "told"),
    [
        ([0, 1, 2], {}, "3 classes"),
        (["a", "b", "a"], {}, "pos_label"),
        ([0, 1, 1], {"pos_label": 4}, "must be one of"),
    ],
)
def test_one_probability_a_row_must_be_of_a_known_class(true, words, told) -> None:
    with pytest.raises(ValueError, match=told):
        metrics.brier_score_loss(true, [0.1, 0.2, 0.3], **words)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_top_k_accuracy_is_that_of_sklearn_ties_included(data) -> None:
    (true,) = data.draw(labels(sides=1))
    classes = int(data.draw(st.integers(max(true.max() + 1, 3), 6)))
    score = data.draw(scores(len(true), classes))
    words = {
        "k": data.draw(st.integers(1, classes)),
        "normalize": data.draw(st.booleans()),
        "sample_weight": data.draw(weights(len(true))),
        "labels": list(range(classes)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of k = classes
        ours = metrics.top_k_accuracy_score(true, score, **words)
        expected = oracle.top_k_accuracy_score(true, score, **words)
    assert ours == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, -0.6])
def test_one_column_is_thresholded_as_by_sklearn(shift) -> None:
    true, score = [0, 1, 1, 0, 1], np.array([0.1, 0.5, 0.7, 0.6, 0.9]) + shift
    ours = metrics.top_k_accuracy_score(true, score, k=1)
    assert ours == oracle.top_k_accuracy_score(true, score, k=1)


def test_as_many_as_there_are_classes_is_warned_of() -> None:
    with pytest.warns(metrics.UndefinedMetricWarning, match="k=2 of 2 classes"):
        assert metrics.top_k_accuracy_score([0, 1], [[0.9, 0.1], [0.8, 0.2]]) == 1


def test_rows_that_do_not_add_up_to_one_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="do not add up to 1"):
        metrics.log_loss([0, 1], [[0.9, 0.2], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: metrics.log_loss([0, 1], [[2.0, -1.0], [0.0, 1.0]]), "take the softmax"),
        (lambda: metrics.log_loss([0, 0], [[0.9, 0.1], [0.5, 0.5]]), "labels="),
        (lambda: metrics.log_loss([0, 1], np.full((2, 3), 1 / 3)), "3 columns"),
        (lambda: metrics.log_loss([0, 1], [0.5, 0.5], labels=[1, 0]), "must ascend"),
        (lambda: metrics.log_loss([0, 3], [0.5, 0.5], labels=[0, 1]), r"\[3\] are not in"),
        (lambda: metrics.top_k_accuracy_score([0, 1], [0.5, 0.5], k=0), "at least 1"),
        (lambda: metrics.top_k_accuracy_score([0, 1, 1], np.eye(2)), "y_true 3, y_score 2"),
    ],
)
def test_scores_that_do_not_fit_the_labels_are_refused(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        call()
