"""What the metrics take: arrays, lists and tensors, checked.

Dimensions in comments: n rows, C classes.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]


class UndefinedMetricWarning(UserWarning):
    """A metric has no value for these rows, as the precision of a class that nobody predicts."""


def to_array(values: Any, name: str) -> Values:
    """An array of whatever was given; a tensor is taken off its device.

    Raises:
        ValueError: It has no rows, or NaN or infinite values.
    """
    if hasattr(values, "detach"):  # a tensor, without an import of torch
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    array = np.asarray(values)
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{name}: at least one row is needed, shape {array.shape} was given")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: has NaN or infinite values; leave these rows out first")
    return array


def to_labels(values: Any, name: str) -> Values:
    """One label a row. [n]

    Raises:
        ValueError: It is no vector, or holds numbers with a fraction.
    """
    array = to_array(values, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name}: one label a row is needed, shape (n,); {array.shape} was given. Of "
            "probabilities take argmax(1), of a column take [:, 0]"
        )
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        raise ValueError(
            f"{name}: labels are needed, and these numbers have fractions; give whole numbers, "
            "booleans or strings, or take a metric of regression"
        )
    return array


def check_rows(**columns: Values | None) -> None:
    """Raise `ValueError` where columns have different numbers of rows."""
    sizes = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"the columns have different numbers of rows: {given}")


def to_weights(sample_weight: Any, rows: int) -> Values | None:
    """One finite weight a row, of the type that was given. [n]

    Raises:
        ValueError: There is not one number for each row.
    """
    if sample_weight is None:
        return None
    weights = to_array(sample_weight, "sample_weight")
    if weights.shape != (rows,) or weights.dtype.kind not in "biuf":
        raise ValueError(
            f"sample_weight: one number a row is needed, shape ({rows},); {weights.dtype} of shape "
            f"{weights.shape} was given"
        )
    return weights


def mean(values: Values, weights: Values | None) -> Any:
    """Weighted mean over the rows.

    Raises:
        ValueError: The weights add up to 0.
    """
    if weights is not None and weights.sum() == 0:
        raise ValueError("sample_weight: the weights add up to 0, so there is no mean")
    return np.average(values, axis=0, weights=weights)


def label_pair(y_true: Any, y_pred: Any) -> tuple[Values, Values]:
    """Right and predicted labels of the same rows. [n] each

    Raises:
        ValueError: They are no labels, of different kinds, or not equally many.
    """
    true, predicted = to_labels(y_true, "y_true"), to_labels(y_pred, "y_pred")
    check_rows(y_true=true, y_pred=predicted)
    if (true.dtype.kind in "biuf") != (predicted.dtype.kind in "biuf"):
        raise ValueError(
            f"y_true are {true.dtype} and y_pred {predicted.dtype}: numbers and names of classes "
            "are never equal; give both as numbers or both as names"
        )
    return true, predicted


def distinct(labels: Any) -> Values:
    """The labels that were asked for, in their order.

    Raises:
        ValueError: There is none, or one twice.
    """
    wanted = to_labels(labels, "labels")
    if len(np.unique(wanted)) != len(wanted):
        raise ValueError(f"labels={wanted.tolist()}: a label is named twice; name each once")
    return wanted


def classes_of(y_true: Values, labels: Any, columns: int) -> Values:
    """The classes behind the columns of scores: `labels`, else those that occur.

    Raises:
        ValueError: They are not as many as the columns, not ascending, or not all of `y_true`.
    """
    classes = np.unique(y_true) if labels is None else distinct(labels)
    if not np.array_equal(classes, np.sort(classes)):
        raise ValueError(
            f"labels={classes.tolist()}: must ascend, as column j of the scores is the j-th of "
            "them; sort the labels and the columns"
        )
    if len(classes) != columns:
        raise ValueError(
            f"the scores have {columns} columns, and there are {len(classes)} classes "
            f"({'in y_true' if labels is None else 'in labels'}): name the class of each column "
            "with labels=[...]"
        )
    if len(strange := np.setdiff1d(y_true, classes)):
        raise ValueError(f"y_true: {strange.tolist()} are not in labels={classes.tolist()}")
    return classes
