"""How much the scores of a model say of the label: log loss, and the label among the first k."""

import warnings
from typing import Any

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
    true, given = to_labels(y_true, "y_true"), to_array(y_proba, "y_proba")
    probabilities = given if given.dtype in (np.float16, np.float32) else given.astype(np.float64)
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(
            f"y_proba: from {probabilities.min()} to {probabilities.max()}, but probabilities lie "
            "in [0, 1]; take the softmax of logits first"
        )
    if probabilities.size == len(probabilities):
        second = probabilities.reshape(-1)
        probabilities = np.stack([1 - second, second], axis=1)
    check_rows(y_true=true, y_proba=probabilities)
    classes = classes_of(true, labels, probabilities.shape[1])
    weights = to_weights(sample_weight, len(true))
    losses = _losses(probabilities, np.searchsorted(classes, true))
    if normalize:
        return float(mean(losses, weights))
    return float(losses.sum() if weights is None else losses @ weights)


def _losses(probabilities: Values, index: Values) -> Floats:
    eps = np.finfo(probabilities.dtype).eps
    if not np.allclose(probabilities.sum(1), 1, rtol=eps**0.5, atol=0):
        warnings.warn(
            "y_proba: the probabilities of a row do not add up to 1", UserWarning, stacklevel=3
        )
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
