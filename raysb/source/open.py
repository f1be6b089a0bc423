"""From settings, or objects given in Python, to the rows of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from raysb.errors import DataError
from raysb.schema import ID, Source
from raysb.source.arrays import ArraySource, as_array
from raysb.source.demo import DEMOS, held_out
from raysb.source.formats import SAMPLE, decode_columns, find_formats
from raysb.source.items import as_items
from raysb.source.normalise import image_columns, measure
from raysb.source.parquet import ParquetSource
from raysb.source.settings import RESERVED, Data
from raysb.source.split import Part
from raysb.source.table import Table, check_columns

MAX_CLASSES = 1_000_000  # that a run takes a label's word for


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The rows of a run and what is known about them.

    Args:
        train: Rows to train on.
        eval: Rows to test on; None without a test set.
        num_classes: 1 + the largest label, or the number asked for; None where the target is not
            one integer a row.
        shapes: Shape of one row of each input and of the target; images are (H, W, C).
        mean: Mean per channel of pixels in [0, 1], given or measured; None without images.
        std: Standard deviation per channel, likewise.
    """

    train: Source
    eval: Source | None
    num_classes: int | None
    shapes: Mapping[str, tuple[int, ...]]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def given(rows: Any, call: str) -> Any:
    """The rows that a caller gave; `None` would silently mean those of `data.train`.

    Raises:
        TypeError: They are `None`.
    """
    if rows is None:
        raise TypeError(
            f"{call}: the rows are None; give arrays, paths, a data set or a source. "
            'The demo digits are "mnist5k"'
        )
    return rows


def open_sources(
    data: Data,
    *,
    seed: int,
    train: Any = None,
    test: Any = None,
    num_classes: int | None = None,
    labels: bool = True,
) -> Sources:
    """Open the training and the test set and check that they fit each other.

    Args:
        data: Settings.
        seed: The run's seed; it decides the orders, never which rows are held out.
        train: In place of `data.train`: paths, a dict of arrays, a tuple (inputs, target), a
            map-style data set of torch, a `ray.data.Dataset`, or any object with the `Source`
            protocol.
        test: In place of `data.test`, likewise.
        num_classes: Classes that the model tells apart, where that is given.
        labels: Whether an integer target means classes, as cross-entropy takes it.

    Raises:
        FileNotFoundError: A path matches nothing.
        ImportError: A demo set or a picture needs a package that is not installed.
        TypeError: An object is nothing that rows can be read from.
        DataError: Rows cannot be used, labels are outside the classes, the sets do not match.
        ValueError: `data.mean` has another number of channels than the images.
    """
    tested = data.test if test is None else test
    rows = _open(data.train if train is None else train, data, seed, "data.train")
    rows, held = _split(rows, data, tested is not None)
    if tested is not None:
        held = _open(tested, data, seed, "data.test")
        held = held.part(test=True) if isinstance(held, _Demo) else held
    if isinstance(rows, _Demo):
        rows = rows.part(test=False)
    shapes = _shapes(rows, data, "data.train")
    _check_one_value(rows, data, "data.train", labels)
    if held is not None:
        _check_same(shapes, _shapes(held, data, "data.test"))
    if labels:
        num_classes = _check_labels(rows, data, num_classes, "data.train")
        if held is not None:
            _check_labels(held, data, num_classes, "data.test")
    mean, std = _normalisation(rows, data)
    return Sources(
        train=rows, eval=held, num_classes=num_classes, shapes=shapes, mean=mean, std=std
    )


class _Demo(ArraySource):
    """A demo set, which knows its own test rows."""

    def part(self, *, test: bool) -> ArraySource:
        labels = self.columns["label"].astype(np.int64)
        return self.subset(np.flatnonzero(held_out(self.ids, labels) == test))


def _open(given: Any, data: Data, seed: int, key: str) -> Any:
    """A source of whatever was given."""
    if isinstance(given, str) and given in DEMOS:
        columns = DEMOS[given]()
        _check_wanted(columns, data, f"{key}={given}")
        return _Demo(_decoded(columns, data), seed=seed)
    if _is_paths(given):
        try:
            return ParquetSource(given, data=data, seed=seed)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{key}={given!r}: {error} Name a file, folder or glob of parquet, or a demo set: "
                f"{', '.join(DEMOS)}."
            ) from error
    if isinstance(given, tuple) and len(given) == 2 and data.target is not None:
        given = {data.inputs[0]: given[0], data.target: given[1]}
    if isinstance(given, Mapping):
        columns = {name: as_array(name, column) for name, column in given.items()}
        _check_reserved(columns, data, key)
        _check_wanted(columns, data, f"{key} with the columns {', '.join(columns)}")
        return ArraySource(_decoded(columns, data), seed=seed, id_column=data.id)
    if type(given).__module__.startswith("ray.data"):
        from raysb.source.dataset import DatasetSource  # the only source that needs Ray

        return DatasetSource(given, data=data, seed=seed)
    if callable(getattr(given, "read", None)) and hasattr(given, "num_rows"):
        if given.num_rows < 1:
            raise DataError(f"{key}: {given!r} has no rows; nothing could be trained.")
        return given
    named = (*data.inputs, *(() if data.target is None else (data.target,)))
    if (items := as_items(given, named, seed=seed, key=key)) is not None:
        _check_reserved(dict.fromkeys(items.names), data, key)
        return items
    raise TypeError(
        f"{key}={type(given).__name__}: rows cannot be read from this. Give a path, a dict of "
        "arrays, a tuple (inputs, target), a map-style data set of torch, a ray.data.Dataset, or "
        "an object with `num_rows` and `read(epoch, start, stop)`."
    )


def _check_reserved(columns: Mapping[str, Any], data: Data, key: str) -> None:
    """The stream would replace a column of the user's that has the name of one of its own."""
    taken = sorted(set(columns) & set(RESERVED) - {ID, data.id})
    if taken:
        raise DataError(
            f"{key}: the column {taken[0]!r} has the name of one that the stream writes "
            f"({', '.join(RESERVED)}), so the model would not see yours. Rename it."
        )


def _is_paths(given: Any) -> bool:
    several = isinstance(given, list | tuple) and len(given) > 0
    return isinstance(given, str | Path) or (
        several and all(isinstance(path, str | Path) for path in given)
    )


def _check_wanted(columns: Mapping[str, Any], data: Data, where: str) -> None:
    named = [name for name in (data.target, data.id) if name is not None]
    check_columns([*data.inputs, *named], list(columns), where)


def _decoded(columns: dict[str, Any], data: Data) -> dict[str, Any]:
    """Columns whose pictures are uint8 [n, H, W, C]: in memory they are decoded once, at once."""
    if any(len(columns[name]) == 0 for name in data.inputs):
        return columns  # ArraySource says what is wrong
    formats = find_formats(
        {name: columns[name][:SAMPLE] for name in data.inputs},
        inputs=data.inputs,
        image_size=data.image_size,
        place=_row,
    )
    return decode_columns(columns, formats, _row)


def _row(row: int) -> str:
    return f"row {row}"


def _split(rows: Any, data: Data, has_test: bool) -> tuple[Any, Any]:
    """Hold rows out where there is no test set."""
    if has_test:
        return rows, None
    if data.test_fraction > 0:
        if not hasattr(rows, "restrict"):
            raise TypeError(
                f"data.test_fraction={data.test_fraction}: {type(rows).__name__} cannot be split "
                "by id, because it has no `restrict`. Give a test set of its own."
            )
        return _restrict(rows, data, held_out=False), _restrict(rows, data, held_out=True)
    return rows, rows.part(test=True) if isinstance(rows, _Demo) else None


def _restrict(rows: Table, data: Data, *, held_out: bool) -> Table:
    fraction = data.test_fraction
    try:
        return rows.restrict(Part(fraction=fraction, held_out=held_out))
    except DataError as error:
        side = "test" if held_out else "train"
        raise DataError(
            f"data.test_fraction={fraction}: of {rows.num_rows} rows none is left for the {side} "
            "set. Choose a fraction that leaves rows on both sides, or name data.test."
        ) from error


def _shapes(rows: Source, data: Data, key: str) -> dict[str, tuple[int, ...]]:
    """Shape of one row of each column that is used; reads the first row."""
    first = rows.read(None, 0, 1)
    wanted = [*data.inputs] if data.target is None else [*data.inputs, data.target]
    check_columns([*wanted, ID], list(first), key)
    if data.target is not None:
        value = first[data.target].ravel()[:1].tolist()
        if isinstance(value[0] if value else 0, str | bytes | date):
            raise DataError(
                f"{key}: the target {data.target!r} holds {value[0]!r}, which is no number. Labels "
                "must be integers from 0: number the classes."
            )
    return {name: first[name].shape[1:] for name in wanted}


def _check_one_value(rows: Source, data: Data, key: str, labels: bool) -> None:
    """Refuse a target that is one number wrapped in a list: no class, and no number either."""
    if data.target is None:
        return
    target = rows.read(None, 0, min(SAMPLE, rows.num_rows))[data.target]
    if target.dtype == object:
        wrapped = all(np.shape(value) == (1,) for value in target)
    else:
        wrapped = labels and target.dtype.kind in "iub" and target.shape[1:] == (1,)
    if wrapped:
        raise DataError(
            f"{key}: the target {data.target!r} holds one number a row inside a list (shape "
            "[n, 1]), where the number itself is needed: it would be compared with a whole row of "
            "outputs. Take it out: array.reshape(-1), or pyarrow.compute.list_flatten(column)."
        )


def _check_same(train: dict[str, tuple[int, ...]], test: dict[str, tuple[int, ...]]) -> None:
    for name, shape in train.items():
        if test[name] != shape:
            raise DataError(
                f"data.test: rows of the column {name!r} have shape {list(test[name])}, those of "
                f"data.train {list(shape)}; one model cannot take both. Set data.image_size="
                "[height, width, channels] if they are encoded images, else bring them into one "
                "shape."
            )


def _check_labels(rows: Any, data: Data, num_classes: int | None, key: str) -> int | None:
    """Number of classes; None where it is unknown and not asked for, or there are no classes."""
    bounds = None
    if data.target is not None and hasattr(rows, "label_bounds"):
        bounds = rows.label_bounds(data.target)
    if bounds is None:
        return num_classes
    classes = bounds[1] + 1 if num_classes is None else num_classes
    if num_classes is None and classes > MAX_CLASSES:
        raise DataError(
            f"{key}: {rows.find(str(data.target), bounds[1])}: the label {bounds[1]} in the column "
            f"{data.target!r} would give the model {classes:,} outputs, more than {MAX_CLASSES:,}. "
            "Correct it, number the classes from 0, set model.num_classes if there are so many, or "
            "--train.loss mse if these are no classes."
        )
    check_classes(rows, str(data.target), classes, key)
    return classes


def check_classes(rows: Any, target: str, classes: int, key: str = "data.train") -> None:
    """Refuse labels outside the classes, before a loss meets them in a shuffled pool.

    Args:
        rows: A `Table`; of any other source nothing is known.
        target: Column with the labels; one that is not of integers has no classes.
        classes: Labels are to be 0 to `classes` - 1.
        key: Where the rows come from, for the message.

    Raises:
        DataError: A label is outside; its file and row are named.
    """
    bounds = rows.label_bounds(target) if hasattr(rows, "label_bounds") else None
    for value in bounds or ():
        if not 0 <= value < classes:
            raise DataError(
                f"{key}: {rows.find(target, value)}: the label {value} in the column {target!r} is "
                f"outside the classes 0 to {classes - 1}. Correct the label, or give the model "
                "more outputs (model.num_classes)."
            )


def _normalisation(
    rows: Source, data: Data
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation as given or measured."""
    if data.mean is None or data.std is None:
        return measure(rows, data.inputs) or (None, None)
    first = rows.read(None, 0, 1)
    for name in image_columns(first, data.inputs):
        if first[name].shape[3] != len(data.mean):
            raise ValueError(
                f"data.mean={list(data.mean)!r}: {len(data.mean)} numbers for the "
                f"{first[name].shape[3]} channels of the column {name!r}. Give one per channel."
            )
    return data.mean, data.std
