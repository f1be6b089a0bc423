"""How much the scores of a model say of the label: log loss, Brier score, first k classes."""

import warnings
from typing import Any, Literal

import numpy as np

from raysb.metrics.inputs import (
    Floats,
    UndefinedMetricWarning,
    Values,
    check_rows,
    classes_of,
    mean,
    to_array,
    to_labels,
    to_weights,
)


def log_loss(
    y_true: Any,
    y_proba: Any,
    *,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
) -> float:
    """Mean of -ln p, p the probability of the label, in nats: cross-entropy.

    Args:
        y_true: Labels [n].
        y_proba: Probabilities [n, C] in [0, 1], column j of the j-th class in ascending order; or
            [n] of the second of two. Clipped to [eps, 1 - eps] of their float type.
        normalize: False gives the sum.
        sample_weight: [n].
        labels: The classes, ascending; needed where not all occur.
    """
    true, probabilities = to_labels(y_true, "y_true"), _of_classes(y_proba)
    check_rows(y_true=true, y_proba=probabilities)
    classes = classes_of(true, labels, probabilities.shape[1])
    weights = to_weights(sample_weight, len(true))
    losses = _losses(probabilities, np.searchsorted(classes, true))
    if normalize:
        return float(mean(losses, weights))
    return float(losses.sum() if weights is None else losses @ weights)


def brier_score_loss(
    y_true: Any,
    y_proba: Any,
    *,
    sample_weight: Any = None,
    pos_label: Any = None,
    labels: Any = None,
    scale_by_half: bool | Literal["auto"] = "auto",
) -> float:
    """Mean over the rows of sum_c (1[label is c] - p_c)^2, in [0, 2]; of two classes half of it.

    Args:
        y_true: Labels [n].
        y_proba: Probabilities [n, C] in [0, 1], column j of the j-th class in ascending order; or
            [n] of `pos_label`.
        sample_weight: [n].
        pos_label: Class that probabilities [n] are of; `None`: the greater one, 1 of 0 and 1.
        labels: The classes, ascending; needed where not all occur.
        scale_by_half: Whether to divide by 2; `"auto"`: of two classes.

    Raises:
        ValueError: Probabilities are out of range, or do not go with the labels.
    """
    true, probabilities = to_labels(y_true, "y_true"), _of_classes(y_proba)
    check_rows(y_true=true, y_proba=probabilities)
    weights = to_weights(sample_weight, len(true))
    if to_array(y_proba, "y_proba").size == len(true):
        right = np.stack([~(hit := true == _positive(true, pos_label)), hit], axis=1)
    else:
        classes = classes_of(true, labels, probabilities.shape[1])
        _check_sums(probabilities)
        right = true[:, None] == classes
    score = float(mean(((right - probabilities) ** 2).sum(axis=1), weights))
    halved = probabilities.shape[1] < 3 if scale_by_half == "auto" else scale_by_half
    return score / 2 if halved else score


def _positive(true: Values, pos_label: Any) -> Any:
    """The class that one column of probabilities is of."""
    found = np.unique(true)
    if len(found) > 2:
        raise ValueError(
            f"y_proba: one probability a row, and y_true has {len(found)} classes; give a column "
            "for each"
        )
    known = found.tolist()
    if pos_label is None:
        if found.dtype.kind in "biuf" and (set(known) <= {0, 1} or set(known) <= {-1, 1}):
            return 1
        if found.dtype.kind in "biuf":
            return known[-1]
        raise ValueError(f"y_true has the classes {known}: say with pos_label of which y_proba is")
    if len(found) == 2 and pos_label not in known:
        raise ValueError(f"pos_label={pos_label!r}: must be one of {known}")
    return pos_label


def _of_classes(y_proba: Any) -> Values:
    """Probabilities of every class, those of one column as of the second of two. [n, C]"""
    given = to_array(y_proba, "y_proba")
    probabilities = given if given.dtype in (np.float16, np.float32) else given.astype(np.float64)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(
            f"y_proba: from {probabilities.min()} to {probabilities.max()}, but probabilities lie "
            "in [0, 1]; take the softmax of logits first"
        )
    if probabilities.size == len(probabilities):
        second = probabilities.reshape(-1)
        probabilities = np.stack([1 - second, second], axis=1)
    return probabilities


def _check_sums(probabilities: Values) -> None:
    eps = np.finfo(probabilities.dtype).eps
    if not np.allclose(probabilities.sum(1), 1, rtol=eps**0.5, atol=0):
        warnings.warn(
            "y_proba: the probabilities of a row do not add up to 1", UserWarning, stacklevel=4
        )


def _losses(probabilities: Values, index: Values) -> Floats:
    _check_sums(probabilities)
    eps = np.finfo(probabilities.dtype).eps
    own = np.take_along_axis(probabilities, index[:, None], axis=1)[:, 0]
    losses: Floats = -np.log(own.clip(eps, 1 - eps)).astype(np.float64)
    return losses


def top_k_accuracy_score(
    y_true: Any,
    y_score: Any,
    *,
    k: int = 2,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
) -> float:
    """Share of the rows whose label is among the k highest scores; the last of equal ones first.

    Args:
        y_true: Labels [n].
        y_score: Scores [n, C], column j of the j-th class in ascending order; or [n] of the second
            of two, which is predicted above .5, or above 0 where scores leave [0, 1].
        k: At least 1.
        normalize: False gives the number of such rows, or the sum of their weights.
        sample_weight: [n].
        labels: The classes, ascending; needed where not all occur.
    """
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1; no label is among the first {k}")
    true, scores = to_labels(y_true, "y_true"), to_array(y_score, "y_score")
    if scores.size == len(scores):
        scores = _both(scores.reshape(-1))
    check_rows(y_true=true, y_score=scores)
    classes = classes_of(true, labels, scores.shape[1])
    if k >= len(classes):
        warnings.warn(
            f"k={k} of {len(classes)} classes: every label is among the first k",
            UndefinedMetricWarning,
            stacklevel=2,
        )
    index = np.searchsorted(classes, true)[:, None]
    own = np.take_along_axis(scores, index, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(len(classes)) > index))
    hits, weights = before.sum(axis=1) < k, to_weights(sample_weight, len(true))
    if normalize:
        return float(mean(hits, weights))
    return float(hits.sum() if weights is None else weights[hits].sum())


def _both(second: Values) -> Values:
    """Scores of both classes from those of the second. [n, 2]"""
    threshold = 0.5 if second.min() >= 0 and second.max() <= 1 else 0
    above = second > threshold
    return np.stack([~above, above], axis=1).astype(np.float64)
