"""Right and wrong: accuracy, accuracy over classes, and which class is taken for which."""

import warnings
from typing import Any

import numpy as np

from raysb.metrics.inputs import Values, distinct, label_pair, mean, to_weights


def accuracy_score(
    y_true: Any, y_pred: Any, *, normalize: bool = True, sample_weight: Any = None
) -> float:
    """Share of the rows whose prediction is the label; of the weights, where there are weights.

    Args:
        y_true: Labels [n]: whole numbers, booleans or strings.
        y_pred: Predicted labels [n].
        normalize: False gives the number of such rows, or the sum of their weights.
        sample_weight: [n].
    """
    true, predicted = label_pair(y_true, y_pred)
    weights, right = to_weights(sample_weight, len(true)), true == predicted
    if not normalize:
        return float(right.sum() if weights is None else weights[right].sum())
    return float(mean(right, weights))


def confusion_matrix(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    sample_weight: Any = None,
    normalize: str | None = None,
) -> Values:
    """How many rows of class i are predicted as class j.

    Args:
        y_true: Labels [n].
        y_pred: Predicted labels [n].
        labels: The classes of rows and columns, in this order, at least one of them in `y_true`;
            rows with others on either side are left out. By default all that occur, ascending.
        sample_weight: [n].
        normalize: Divide by the sums over `"true"` labels, `"pred"` labels or `"all"`; 0 / 0 is 0.

    Returns:
        int64 [C, C], or float64 where weights are no whole numbers or it is normalised.
    """
    if normalize not in (None, "true", "pred", "all"):
        raise ValueError(f"normalize={normalize!r}: must be 'true', 'pred', 'all' or None")
    true, predicted = label_pair(y_true, y_pred)
    weights = to_weights(sample_weight, len(true))
    classes = np.union1d(true, predicted) if labels is None else distinct(labels)
    if not np.isin(true, classes).any():
        raise ValueError(f"labels={classes.tolist()}: at least one must be in y_true; none is")
    counts = _count(true, predicted, classes, weights)
    if normalize is None:
        return counts
    axis = {"true": 1, "pred": 0, "all": None}[normalize]
    sums = counts.sum(axis=axis, keepdims=True)
    shares = np.zeros(counts.shape)
    np.divide(counts, sums, out=shares, where=sums != 0)
    return shares


def _count(true: Values, predicted: Values, classes: Values, weights: Values | None) -> Values:
    kept = np.isin(true, classes) & np.isin(predicted, classes)
    order, size = np.argsort(classes), len(classes)
    row, column = (
        order[np.searchsorted(classes, side[kept], sorter=order)] for side in (true, predicted)
    )
    kept_weights = None if weights is None else weights[kept]
    counts = np.bincount(row * size + column, kept_weights, minlength=size * size)
    whole = weights is None or weights.dtype.kind in "biu"
    return counts.reshape(size, size).astype(np.int64 if whole else np.float64)


def balanced_accuracy_score(
    y_true: Any, y_pred: Any, *, sample_weight: Any = None, adjusted: bool = False
) -> float:
    """Mean over the classes of the share of their rows that is predicted rightly.

    Args:
        y_true: Labels [n].
        y_pred: Predicted labels [n]; a class that is in no label is left out, with a warning.
        sample_weight: [n].
        adjusted: Rescale so that guessing gives 0 and every row right 1.
    """
    counts = confusion_matrix(y_true, y_pred, sample_weight=sample_weight)
    sums = counts.sum(axis=1)
    known = sums != 0
    if not known.all():
        warnings.warn("y_pred contains classes not in y_true", UserWarning, stacklevel=2)
    score = float(np.mean(counts.diagonal()[known] / sums[known]))
    if not adjusted:
        return score
    chance = 1 / int(known.sum())
    if chance == 1:
        raise ValueError("adjusted=True: y_true has one class only, so a guess is always right")
    return (score - chance) / (1 - chance)
