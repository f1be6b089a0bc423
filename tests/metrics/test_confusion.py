"""Accuracy and confusion against scikit-learn, over drawn labels and weights."""

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
from draws import labels, weights


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_accuracy_is_that_of_sklearn(data) -> None:
    true, predicted = data.draw(labels(names=True))
    w, normalize = data.draw(weights(len(true))), data.draw(st.booleans())
    words = {"normalize": normalize, "sample_weight": w}
    ours = metrics.accuracy_score(true, predicted, **words)
    assert ours == pytest.approx(oracle.accuracy_score(true, predicted, **words), rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_the_confusion_matrix_is_that_of_sklearn(data) -> None:
    true, predicted = data.draw(labels(names=True))
    wanted = data.draw(st.sampled_from([None, "some", "more"]))
    if wanted is not None:
        found = np.unique(true)
        chosen = data.draw(st.permutations(found.tolist()))
        size = data.draw(st.integers(1, len(chosen)))
        strange = ["zebra"] if true.dtype.kind == "U" else [7]
        wanted = np.array([*chosen[:size], *(strange if wanted == "more" else [])])
    words = {
        "labels": wanted,
        "sample_weight": data.draw(weights(len(true))),
        "normalize": data.draw(st.sampled_from([None, "true", "pred", "all"])),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = oracle.confusion_matrix(true, predicted, **words)
    ours = metrics.confusion_matrix(true, predicted, **words)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_balanced_accuracy_is_that_of_sklearn_with_its_warning(data) -> None:
    true, predicted = data.draw(labels())
    words = {"sample_weight": data.draw(weights(len(true)))}
    words["adjusted"] = len(np.unique(true)) > 1 and data.draw(st.booleans())
    with warnings.catch_warnings(record=True) as theirs:
        warnings.simplefilter("always")
        expected = oracle.balanced_accuracy_score(true, predicted, **words)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = metrics.balanced_accuracy_score(true, predicted, **words)
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-15)
    absent = "y_pred contains classes not in y_true"
    assert [str(each.message) for each in told] == [
        str(each.message) for each in theirs if str(each.message) == absent
    ]


def test_a_matrix_worked_out_by_hand() -> None:
    true, predicted = [2, 0, 2, 2, 0, 1], [0, 0, 2, 2, 0, 2]
    assert metrics.confusion_matrix(true, predicted).tolist() == [[2, 0, 0], [0, 0, 1], [1, 0, 2]]
    assert metrics.accuracy_score(true, predicted) == 4 / 6
    assert metrics.balanced_accuracy_score(true, predicted) == pytest.approx((1 + 0 + 2 / 3) / 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.bfloat16])
def test_tensors_and_lists_give_what_arrays_give(dtype) -> None:
    true, predicted = [0, 1, 2, 1], [0, 2, 2, 1]
    tensors = (torch.tensor(true, dtype=dtype), torch.tensor(predicted, dtype=dtype))
    assert metrics.accuracy_score(*tensors) == 0.75
    expected = metrics.confusion_matrix(true, predicted)
    assert (metrics.confusion_matrix(*tensors) == expected).all()
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    assert metrics.accuracy_score(*tensors, sample_weight=grad) == pytest.approx(8 / 10)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: metrics.accuracy_score([], []), "at least one row"),
        (lambda: metrics.accuracy_score([0, 1], [0]), "y_true 2, y_pred 1"),
        (lambda: metrics.accuracy_score([[0], [1]], [0, 1]), r"\(2, 1\) was given"),
        (lambda: metrics.accuracy_score([0, 1], [0.5, 1]), "fractions"),
        (lambda: metrics.accuracy_score([0.0, np.nan], [0, 1]), "NaN"),
        (lambda: metrics.accuracy_score(["a", "b"], [0, 1]), "never equal"),
        (lambda: metrics.accuracy_score([0], [0], sample_weight=[1, 2]), r"shape \(1,\)"),
        (lambda: metrics.accuracy_score([0], [0], sample_weight=[0]), "add up to 0"),
        (lambda: metrics.confusion_matrix([0], [0], labels=[1]), "at least one must be in y_true"),
        (lambda: metrics.confusion_matrix([0], [0], labels=[0, 0]), "named twice"),
        (lambda: metrics.confusion_matrix([0], [0], normalize="rows"), "'true', 'pred'"),
        (lambda: metrics.balanced_accuracy_score([1], [1], adjusted=True), "one class only"),
    ],
)
def test_what_has_no_value_is_refused_with_the_reason(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        call()
