"""Area under ROC and average precision against scikit-learn, over drawn scores."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raysb import metrics

sys.path.insert(0, str(Path(__file__).parent))
from draws import labels, scores, weights


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_scores_of_two_classes_rank_as_in_sklearn(data) -> None:
    (true,) = data.draw(labels(sides=1, most=2, names=True))
    score = data.draw(scores(len(true), 2))[:, 1]
    w = data.draw(weights(len(true)))
    positive = np.unique(true)[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class without rows
        area, expected = (m.roc_auc_score(true, score, sample_weight=w) for m in (metrics, oracle))
        assert area == pytest.approx(expected, rel=1e-9, nan_ok=True)
        ours, expected = (
            m.average_precision_score(true, score, sample_weight=w, pos_label=positive)
            for m in (metrics, oracle)
        )
    assert ours == pytest.approx(expected, rel=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_scores_of_several_classes_rank_as_in_sklearn(data) -> None:
    (true,) = data.draw(labels(sides=1))
    classes = 4
    true = np.concatenate([np.arange(classes), true])  # each occurs
    score = data.draw(scores(len(true), classes))
    w = data.draw(weights(len(true)))
    average = data.draw(st.sampled_from(["macro", "weighted", "micro", None]))
    words = {"average": average, "sample_weight": w}
    ours, expected = (
        m.roc_auc_score(true, score, multi_class="ovr", **words) for m in (metrics, oracle)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    ours, expected = (m.average_precision_score(true, score, **words) for m in (metrics, oracle))
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    assume(average in ("macro", "weighted"))
    ours, expected = (
        m.roc_auc_score(true, score, multi_class="ovo", average=average) for m in (metrics, oracle)
    )
    assert ours == pytest.approx(expected, rel=1e-9)


def test_an_area_worked_out_by_hand() -> None:
    assert metrics.roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75  # 3 of 4 pairs
    assert metrics.roc_auc_score([0, 1], [0.5, 0.5]) == 0.5  # a tie counts half
    by_hand = (1 + 2 / 3) / 2
    ours = metrics.average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    assert ours == pytest.approx(by_hand)


def test_one_class_alone_has_no_area_and_is_warned_of() -> None:
    with pytest.warns(metrics.UndefinedMetricWarning, match="one class alone"):
        assert np.isnan(metrics.roc_auc_score([1, 1], [0.1, 0.2]))
    with pytest.warns(metrics.UndefinedMetricWarning, match="without rows"):
        assert metrics.average_precision_score([0, 0], [0.1, 0.2]) == 0
    words = {"labels": [0, 1, 2], "multi_class": "ovr", "average": None}
    with pytest.warns(metrics.UndefinedMetricWarning, match="one class alone"):
        absent = metrics.roc_auc_score([0, 1], np.full((2, 3), 1 / 3), **words)
    assert np.isnan(absent[2])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: metrics.roc_auc_score([0, 1, 2], np.full((3, 3), 1 / 3)), "'ovr' or 'ovo'"),
        (lambda: metrics.roc_auc_score([0, 1, 2], np.ones((3, 3)), multi_class="ovr"), "softmax"),
        (lambda: metrics.roc_auc_score([0, 1, 2], [0.1, 0.2, 0.3]), "3 classes"),
        (lambda: metrics.average_precision_score([0, 2], [0.1, 0.2]), "pos_label=1"),
        (
            lambda: metrics.roc_auc_score(
                [0, 1, 2], np.full((3, 3), 1 / 3), multi_class="ovo", sample_weight=[1, 1, 1]
            ),
            "no sample_weight",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(call, told) -> None:
    with pytest.raises(ValueError, match=told):
        call()
