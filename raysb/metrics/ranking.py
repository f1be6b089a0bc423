"""How well scores put the rows of a class before the others: area under ROC, average precision."""

import math
import warnings
from collections.abc import Callable
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np

from raysb.metrics.inputs import (
    Floats,
    UndefinedMetricWarning,
    Values,
    check_rows,
    classes_of,
    to_array,
    to_labels,
    to_weights,
)

Average: TypeAlias = Literal["micro", "macro", "weighted"] | None
# (positive [n], scores [n], weights [n] or None) -> value
Binary: TypeAlias = Callable[[Values, Values, Values | None], float]


def roc_auc_score(
    y_true: Any,
    y_score: Any,
    *,
    average: Average = "macro",
    sample_weight: Any = None,
    multi_class: Literal["raise", "ovr", "ovo"] = "raise",
    labels: Any = None,
) -> Any:
    """Chance that a row of the class scores higher than one that is not of it; ties count half.

    Args:
        y_true: Labels [n].
        y_score: Scores [n] of the second of two classes, else probabilities [n, C].
        average: Over C classes: `"macro"`, `"weighted"` by their rows, `"micro"` over all entries
            of [n, C], `None`: C values. Without effect on two classes.
        sample_weight: [n]; not with `"ovo"`.
        multi_class: `"ovr"`: each class against all others; `"ovo"`: the mean over all pairs of
            classes (Hand and Till 2001).
        labels: The classes, ascending; needed where not all occur.

    Returns:
        In [0, 1]; NaN with a warning where one side has no rows.
    """
    true, scores = to_labels(y_true, "y_true"), to_array(y_score, "y_score")
    check_rows(y_true=true, y_score=scores)
    weights = to_weights(sample_weight, len(true))
    if scores.size == len(scores):
        return _area(_second(true), scores.reshape(-1), weights)
    if multi_class not in ("ovr", "ovo"):
        raise ValueError(
            f"multi_class={multi_class!r}: scores of {scores.shape[1]} classes need 'ovr' or 'ovo'"
        )
    if not np.allclose(1, scores.sum(axis=1)):
        raise ValueError(
            "y_score: of several classes probabilities are needed, which add up to 1 in each row; "
            "take the softmax of logits first"
        )
    classes = classes_of(true, labels, scores.shape[1])
    if multi_class == "ovo":
        return _over_pairs(np.searchsorted(classes, true), scores, average, weights)
    return _over_classes(_area, true[:, None] == classes, scores, average, weights)


def average_precision_score(
    y_true: Any,
    y_score: Any,
    *,
    average: Average = "macro",
    pos_label: Any = 1,
    sample_weight: Any = None,
) -> Any:
    """Area under precision over recall as a step function: sum_t (R_t - R_(t-1)) P_t.

    Args:
        y_true: Labels [n].
        y_score: Scores [n] of `pos_label`, else [n, C], column j of the j-th class that occurs.
        average: Over C classes: `"macro"`, `"weighted"` by their rows, `"micro"` over all entries
            of [n, C], `None`: C values. Without effect on two classes.
        pos_label: Of two classes that whose scores these are.
        sample_weight: [n].

    Returns:
        In [0, 1]; 0 with a warning where the class has no rows.
    """
    true, scores = to_labels(y_true, "y_true"), to_array(y_score, "y_score")
    check_rows(y_true=true, y_score=scores)
    weights, found = to_weights(sample_weight, len(true)), np.unique(true)
    if scores.size != len(scores):
        classes = classes_of(true, None, scores.shape[1])
        return _over_classes(_precision, true[:, None] == classes, scores, average, weights)
    if len(found) > 2 or (len(found) == 2 and pos_label not in found):
        raise ValueError(
            f"y_true has the classes {found.tolist()}, and y_score one column: two classes with "
            f"pos_label={pos_label!r} among them, or a column for each class, are needed"
        )
    return _precision(true == pos_label, scores.reshape(-1), weights)


def _second(true: Values) -> Values:
    """Which rows are of the second of two classes. bool [n]"""
    found = np.unique(true)
    if len(found) > 2:
        raise ValueError(
            f"y_true has {len(found)} classes, and y_score one column; give one for each class"
        )
    second: Values = true == found[-1]
    return second


def _counts(positive: Values, scores: Values, weights: Values | None) -> tuple[Floats, Floats]:
    """Weights of positive and other rows at or above each distinct score, from the top. [t] each"""
    weighing = np.ones(len(scores)) if weights is None else weights.astype(np.float64)
    kept = weighing != 0
    positive, scores, weighing = positive[kept], scores[kept], weighing[kept]
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    scores = scores[order]
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = np.where(positive, weighing, 0)[order]
    others = np.where(positive, 0, weighing)[order]
    return np.cumsum(hits)[ends], np.cumsum(others)[ends]


def _area(positive: Values, scores: Values, weights: Values | None) -> float:
    hits, others = _counts(positive, scores, weights)
    if min(hits[-1], others[-1]) <= 0:
        _warn("the area under ROC", "rows of one class alone")
        return math.nan
    x, y = np.append(0, others / others[-1]), np.append(0, hits / hits[-1])
    return float(np.trapezoid(y, x))


def _precision(positive: Values, scores: Values, weights: Values | None) -> float:
    hits, others = _counts(positive, scores, weights)
    if hits[-1] <= 0:
        _warn("average precision", "a class without rows, and set to 0")
        return 0.0
    steps = np.diff(hits / hits[-1], prepend=0.0)
    return max(0.0, float(np.sum(steps * hits / (hits + others))))


def _warn(what: str, why: str) -> None:
    warnings.warn(f"{what} is not defined for {why}", UndefinedMetricWarning, stacklevel=4)


def _over_classes(
    metric: Binary, positive: Values, scores: Values, average: Average, weights: Values | None
) -> Any:
    """Each class against all others. positive bool [n, C], scores [n, C]"""
    if average not in ("micro", "macro", "weighted", None):
        raise ValueError(f"average={average!r}: must be 'micro', 'macro', 'weighted' or None")
    if average == "micro":
        repeated = None if weights is None else np.repeat(weights, scores.shape[1])
        return metric(positive.ravel(), scores.ravel(), repeated)
    pairs = zip(positive.T, scores.T, strict=True)
    values = np.array([metric(own, column, weights) for own, column in pairs])
    if average is None:
        return values
    rows = positive.sum(0) if weights is None else weights @ positive
    if average == "weighted" and not rows.any():
        return 0.0
    return float(np.average(values, weights=rows if average == "weighted" else None))


def _over_pairs(index: Values, scores: Values, average: Average, weights: Values | None) -> float:
    """The mean over pairs of classes, each taken from both sides."""
    if weights is not None or average not in ("macro", "weighted"):
        raise ValueError(
            f"multi_class='ovo': takes average='macro' or 'weighted' and no sample_weight; "
            f"average={average!r} was given{'' if weights is None else ', and weights'}"
        )
    values, shares = [], []
    for a, b in combinations(np.unique(index).tolist(), 2):
        both = (index == a) | (index == b)
        sides = [_area(index[both] == c, scores[both, c], None) for c in (a, b)]
        values.append(sum(sides) / 2)
        shares.append(both.mean())
    return float(np.average(values, weights=shares if average == "weighted" else None))
