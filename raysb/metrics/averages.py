"""Precision, recall and their F-mean, of each class or averaged over the classes.

With tp the rows of a class that are predicted as it, over all rows of it and all predicted as it:

    precision = tp / predicted      recall = tp / rows
    F_beta = (1 + beta^2) tp / (beta^2 rows + predicted)
"""

import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from raysb.metrics.inputs import (
    Floats,
    UndefinedMetricWarning,
    Values,
    distinct,
    label_pair,
    to_weights,
)

Average: TypeAlias = Literal["binary", "micro", "macro", "weighted"] | None
ZeroDivision: TypeAlias = float | Literal["warn"]

AVERAGES = (None, "binary", "micro", "macro", "weighted")
UNDEFINED = {
    "precision": "a class that is predicted nowhere",
    "recall": "a class without rows",
    "f-score": "a class that is neither there nor predicted",
}


def precision_recall_fscore_support(
    y_true: Any,
    y_pred: Any,
    *,
    beta: float = 1.0,
    labels: Any = None,
    pos_label: Any = 1,
    average: Average = None,
    warn_for: Collection[str] = ("precision", "recall", "f-score"),
    sample_weight: Any = None,
    zero_division: ZeroDivision = "warn",
) -> tuple[Any, Any, Any, Any]:
    """Precision, recall, F_beta and the number of rows, of each class or averaged.

    Args:
        y_true: Labels [n].
        y_pred: Predicted labels [n].
        beta: What recall counts beside precision in F, at least 0.
        labels: The classes, which need not occur; by default all that do.
        pos_label: The one class of `average="binary"`.
        average: `None`: each class by itself; `"binary"`: that of `pos_label`, of at most two;
            `"micro"`: over the sums of all classes; `"macro"`: their mean; `"weighted"`: their
            mean, weighted by their rows.
        warn_for: Of which values to warn where they are not defined.
        sample_weight: [n].
        zero_division: What 0 / 0 gives: 0, 1, or NaN, which averages leave out; `"warn"`: 0 and a
            warning.

    Returns:
        Three arrays of C values and the rows (or weights) of each class; averaged, three numbers
        and `None`.

    Raises:
        ValueError: Arguments that do not go together, as `average="binary"` and three classes.
    """
    _check(beta, average, zero_division)
    true, predicted = label_pair(y_true, y_pred)
    classes = _classes(true, predicted, labels, pos_label, average)
    weights = to_weights(sample_weight, len(true))
    right = true == predicted
    hits = _sums(true[right], None if weights is None else weights[right], classes)
    named, rows = _sums(predicted, weights, classes), _sums(true, weights, classes)
    if average == "micro":
        hits, named, rows = (each.sum(keepdims=True) for each in (hits, named, rows))
    divide = _Division(zero_division, warn_for)
    precision, recall = divide(hits, named, "precision"), divide(hits, rows, "recall")
    f_score = recall if math.isinf(beta) else precision
    if 0 < beta < math.inf:
        f_score = divide((1 + beta**2) * hits, beta**2 * rows + named, "f-score")
    if average is None:
        return precision, recall, f_score, rows
    weighing = rows if average == "weighted" else None
    return _mean(precision, weighing), _mean(recall, weighing), _mean(f_score, weighing), None


def precision_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    pos_label: Any = 1,
    average: Average = "binary",
    sample_weight: Any = None,
    zero_division: ZeroDivision = "warn",
) -> Any:
    """Share of the rows predicted as a class that are of it.

    Arguments and errors are those of `precision_recall_fscore_support`.
    """
    return precision_recall_fscore_support(
        y_true,
        y_pred,
        labels=labels,
        pos_label=pos_label,
        average=average,
        warn_for=("precision",),
        sample_weight=sample_weight,
        zero_division=zero_division,
    )[0]


def recall_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    pos_label: Any = 1,
    average: Average = "binary",
    sample_weight: Any = None,
    zero_division: ZeroDivision = "warn",
) -> Any:
    """Share of the rows of a class that are predicted as it.

    Arguments and errors are those of `precision_recall_fscore_support`.
    """
    return precision_recall_fscore_support(
        y_true,
        y_pred,
        labels=labels,
        pos_label=pos_label,
        average=average,
        warn_for=("recall",),
        sample_weight=sample_weight,
        zero_division=zero_division,
    )[1]


def fbeta_score(
    y_true: Any,
    y_pred: Any,
    *,
    beta: float,
    labels: Any = None,
    pos_label: Any = 1,
    average: Average = "binary",
    sample_weight: Any = None,
    zero_division: ZeroDivision = "warn",
) -> Any:
    """Harmonic mean of precision and recall in which recall counts beta^2 times.

    Arguments and errors are those of `precision_recall_fscore_support`.
    """
    return precision_recall_fscore_support(
        y_true,
        y_pred,
        beta=beta,
        labels=labels,
        pos_label=pos_label,
        average=average,
        warn_for=("f-score",),
        sample_weight=sample_weight,
        zero_division=zero_division,
    )[2]


def f1_score(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    pos_label: Any = 1,
    average: Average = "binary",
    sample_weight: Any = None,
    zero_division: ZeroDivision = "warn",
) -> Any:
    """Harmonic mean of precision and recall.

    Arguments and errors are those of `precision_recall_fscore_support`.
    """
    return precision_recall_fscore_support(
        y_true,
        y_pred,
        labels=labels,
        pos_label=pos_label,
        average=average,
        warn_for=("f-score",),
        sample_weight=sample_weight,
        zero_division=zero_division,
    )[2]


def _check(beta: float, average: Average, zero_division: ZeroDivision) -> None:
    if not beta >= 0:
        raise ValueError(f"beta={beta}: must be at least 0")
    if average not in AVERAGES:
        raise ValueError(f"average={average!r}: must be one of {AVERAGES}")
    if isinstance(zero_division, str):
        allowed = zero_division == "warn"
    else:
        allowed = zero_division in (0, 1) or math.isnan(zero_division)
    if not allowed:
        raise ValueError(f"zero_division={zero_division!r}: must be 'warn', 0, 1 or NaN")


def _classes(
    true: Values, predicted: Values, labels: Any, pos_label: Any, average: Average
) -> Values:
    """The classes to give values of, in their order."""
    found = np.union1d(true, predicted)
    if average != "binary":
        return found if labels is None else distinct(labels)
    if len(found) > 2:
        raise ValueError(
            f"average='binary': there are {len(found)} classes, and it takes two; choose 'micro', "
            "'macro', 'weighted' or None"
        )
    if len(found) == 2 and pos_label not in found:
        raise ValueError(f"pos_label={pos_label!r}: must be one of {found.tolist()}")
    return np.asarray([pos_label])


def _sums(labels: Values, weights: Values | None, classes: Values) -> Values:
    """Rows, or their weights, of each class. [C]"""
    order = np.argsort(classes)
    known = np.isin(labels, classes)
    places = order[np.searchsorted(classes, labels[known], sorter=order)]
    kept = None if weights is None else weights[known]
    sums = np.bincount(places, kept, minlength=len(classes))
    return sums.astype(np.int64) if weights is None or weights.dtype.kind in "biu" else sums


@dataclass(frozen=True)
class _Division:
    """What 0 / 0 gives, and of what it warns."""

    zero: ZeroDivision
    warn_for: Collection[str]

    def __call__(self, above: Values, below: Values, what: str) -> Floats:
        value = 0.0 if self.zero == "warn" else float(self.zero)
        undefined = below == 0
        if undefined.any() and self.zero == "warn" and what in self.warn_for:
            warnings.warn(
                f"{what} is not defined for {UNDEFINED[what]}, and set to 0; choose with "
                "zero_division=0, 1 or NaN",
                UndefinedMetricWarning,
                stacklevel=3,
            )
        result = np.full(below.shape, value)
        np.divide(above, below, out=result, where=~undefined)
        return result


def _mean(values: Floats, weights: Values | None) -> float:
    """Mean of what is not NaN; equally weighted where all weights are 0."""
    known = ~np.isnan(values)
    if not known.any():
        return math.nan
    if weights is None or not weights[known].any():
        return float(values[known].mean())
    return float(np.average(values[known], weights=weights[known]))
