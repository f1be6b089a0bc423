"""Precision, recall and F against scikit-learn, over drawn labels, weights and averages."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb import metrics

sys.path.insert(0, str(Path(__file__).parent))
from draws import labels, weights


def both(name, *args, **words):
    """The values of ours and of scikit-learn's, and of how many undefined ones each warns."""
    found = []
    for home in (metrics, oracle):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            value = getattr(home, name)(*args, **words)
        found.append((value, sum("Undefined" in w.category.__name__ for w in told)))
    return found


def close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        if other is None:
            assert one is None
        else:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-15)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_average_is_that_of_sklearn_with_as_many_warnings(data) -> None:
    true, predicted = data.draw(labels())
    w = data.draw(weights(len(true)))
    wanted = data.draw(st.sampled_from([None, [0], [2, 0], [0, 1, 2, 3, 7]]))
    words = {
        "average": data.draw(st.sampled_from([None, "micro", "macro", "weighted"])),
        "beta": data.draw(st.sampled_from([1.0, 0.5, 2.0, 0.0, float("inf")])),
        "zero_division": data.draw(st.sampled_from(["warn", 0, 1, np.nan])),
        "labels": wanted,
        "sample_weight": w,
    }
    ours, theirs = both("precision_recall_fscore_support", true, predicted, **words)
    close(ours[0], theirs[0])
    assert ours[1] == theirs[1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_single_scores_are_those_of_sklearn(data) -> None:
    true, predicted = data.draw(labels(most=2))
    names = ["precision_score", "recall_score", "f1_score", "fbeta_score"]
    name = data.draw(st.sampled_from(names))
    beta = {"beta": data.draw(st.sampled_from([0, 0.5, 2.0]))} if name == "fbeta_score" else {}
    words = {
        "zero_division": data.draw(st.sampled_from(["warn", 0, 1, np.nan])),
        "sample_weight": data.draw(weights(len(true))),
        "pos_label": int(max(true.max(), predicted.max())),
        **beta,
    }
    ours, theirs = both(name, true, predicted, **words)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-12, nan_ok=True)
    assert ours[1] == theirs[1]


def test_a_table_worked_out_by_hand() -> None:
    true, predicted = [0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1]
    precision, recall, f, rows = metrics.precision_recall_fscore_support(
        true, predicted, zero_division=0
    )
    assert precision.tolist() == [2 / 3, 0, 0]
    assert recall.tolist() == [1, 0, 0]
    assert f.tolist() == [0.8, 0, 0]
    assert rows.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"average": "binary"}, "there are 3 classes"),
        ({"average": "samples"}, "must be one of"),
        ({"beta": -1}, "at least 0"),
        ({"zero_division": 0.5}, "'warn', 0, 1 or NaN"),
        ({"zero_division": "ignore"}, "'warn', 0, 1 or NaN"),
        ({"labels": [1, 1]}, "named twice"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(words, told) -> None:
    with pytest.raises(ValueError, match=told):
        metrics.precision_recall_fscore_support([0, 1, 2], [0, 1, 2], **words)


def test_a_positive_label_that_is_none_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pos_label=1: must be one of \[0, 2\]"):
        metrics.f1_score([0, 2], [2, 2])
