"""Precision, recall and F1 of every class and their averages, as a table or a dict."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from raysb.metrics.averages import Average, ZeroDivision, precision_recall_fscore_support
from raysb.metrics.inputs import Values, distinct, label_pair

COLUMNS = ("precision", "recall", "f1-score", "support")
AVERAGED: tuple[Average, ...] = ("micro", "macro", "weighted")
WIDEST = "weighted avg"


def classification_report(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    target_names: Sequence[str] | None = None,
    sample_weight: Any = None,
    digits: int = 2,
    output_dict: bool = False,
    zero_division: ZeroDivision = "warn",
) -> str | dict[str, Any]:
    """Precision, recall, F1 and rows of each class, their accuracy, and the averages.

    Where `labels` leaves out a class that occurs, the micro average stands in place of the
    accuracy, from which it then differs.

    Args:
        y_true: Labels [n].
        y_pred: Predicted labels [n].
        labels: The classes, in the order of the table; by default all that occur, ascending.
        target_names: What to call them.
        sample_weight: [n].
        digits: Behind the point, at least 0.
        output_dict: Give numbers by name and column.
        zero_division: As of `precision_recall_fscore_support`.

    Returns:
        A table to print, or a dict of dicts, in which `accuracy` is one number.

    Raises:
        ValueError: There are not as many names as classes, or `digits` is below 0.
    """
    if digits < 0:
        raise ValueError(f"digits={digits}: must be at least 0")
    found = np.union1d(*label_pair(y_true, y_pred))
    classes = found if labels is None else distinct(labels)
    names = _names(classes, target_names)
    whole = bool(np.isin(found, classes).all())
    given: dict[str, Any] = {"labels": classes, "sample_weight": sample_weight}
    given["zero_division"] = zero_division
    each = precision_recall_fscore_support(y_true, y_pred, **given)
    lines = dict(zip(names, np.stack(each, axis=1).tolist(), strict=True))
    support = each[3] if sample_weight is None else each[3].astype(float)  # of weights, as there
    for average in AVERAGED:
        name = "accuracy" if average == "micro" and whole else f"{average} avg"
        mean = precision_recall_fscore_support(y_true, y_pred, average=average, **given)
        lines[name] = [*map(float, mean[:3]), float(support.sum())]
    if output_dict:
        return {
            name: line[0] if name == "accuracy" and whole else dict(zip(COLUMNS, line, strict=True))
            for name, line in lines.items()
        }
    counts = [*support, *[support.sum()] * len(AVERAGED)]
    return _table(lines, counts, digits=digits)


def _names(classes: Values, given: Sequence[str] | None) -> list[str]:
    names = [str(each) for each in (classes if given is None else given)]
    if len(names) != len(classes):
        raise ValueError(
            f"target_names: {len(names)} names, and {len(classes)} classes; name each, or say with "
            "labels=[...] which classes there are"
        )
    return names


def _table(lines: dict[str, list[float]], counts: Sequence[Any], *, digits: int) -> str:
    """As scikit-learn sets it: classes, then averages, each after an empty line."""
    classes = len(lines) - len(AVERAGED)
    width = max(*(len(name) for name in lines), len(WIDEST), digits)
    text = [" " * (width + 1) + "".join(f" {column:>9}" for column in COLUMNS), ""]
    for number, ((name, line), count) in enumerate(zip(lines.items(), counts, strict=True)):
        cells = [f"{value:.{digits}f}" for value in line[:3]]
        if name == "accuracy" and number == classes:
            cells[:2] = "", ""
        text += [""] if number == classes else []
        text.append(f"{name:>{width}} " + "".join(f" {cell:>9}" for cell in (*cells, count)))
    return "\n".join([*text, ""])
