"""Rows of a map-style data set of torch: anything with `len(...)` and `[i]`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, Batch, Ids
from raysb.seeding import generator
from raysb.source.table import check_span

LOOKED_AT = 64  # first items, which say what the columns are
TABLES = ("numpy", "pandas", "polars", "pyarrow")  # have `len` and `[i]`, which gives no item


def as_items(given: Any, names: Sequence[str], *, seed: int, key: str) -> "ItemSource | None":
    """The rows of a map-style data set, told by what it can do; torch is not imported.

    Args:
        given: Anything.
        names: Columns of the items that are tuples or a single value.
        seed: Seed of the orders.
        key: Where it was given, for the message.

    Returns:
        The rows, or `None` where `given` is no data set of items.

    Raises:
        TypeError: It is an `IterableDataset`.
        DataError: It is empty, or its items do not fit each other.
    """
    kinds = [(kind.__module__, kind.__name__) for kind in type(given).__mro__]
    if any(m.startswith("torch.utils.data") and n == "IterableDataset" for m, n in kinds):
        raise TypeError(
            f"{key}={type(given).__name__}: an IterableDataset has no row numbers, so no row could "
            "be found again. Give a map-style data set, or a Source of your own"
        )
    plain = isinstance(given, str | bytes | Mapping | list | tuple)
    if plain or type(given).__module__.partition(".")[0] in TABLES:
        return None
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return ItemSource(given, names, seed=seed)
    return None


@dataclass(frozen=True)
class _Column:
    """What the first items say of a column, so that all blocks of it fit together.

    Args:
        shape: Of one row; `None` where rows are ragged: lists of numbers, whatever their lengths,
            or arrays of several shapes.
        dtype: Of numbers; `None` for all else, which is passed on as it is.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any] | None

    @classmethod
    def of(cls, name: str, values: list[Any]) -> "_Column":
        arrays = [_array(value) for value in values]
        if any(array.dtype.kind not in "biuf" for array in arrays):
            return cls(name, None, None)
        # an empty list says nothing: numpy calls it float64
        kinds = [array.dtype for array in arrays if array.size] or [np.dtype(np.float64)]
        lists = any(
            isinstance(value, list) and array.ndim == 1
            for value, array in zip(values, arrays, strict=True)
        )
        shapes = {array.shape for array in arrays}
        return cls(name, None if lists or len(shapes) > 1 else shapes.pop(), np.result_type(*kinds))

    def stack(self, values: list[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """One array [n, ...] of all values; object [n] where the column is ragged or no number."""
        arrays = [self._fitting(value, row) for value, row in zip(values, rows, strict=True)]
        if self.shape is not None:
            return np.stack(arrays) if arrays else np.empty((0, *self.shape), self.dtype)
        column = np.empty(len(arrays), object)
        for i, array in enumerate(arrays):
            column[i] = array
        return column

    def _fitting(self, value: Any, row: int) -> Any:
        if self.dtype is None:
            return value
        array = _array(value)
        same = (self.shape is None and array.ndim > 0) or array.shape == self.shape
        casting: Literal["same_kind", "safe"] = "same_kind" if self.dtype.kind == "f" else "safe"
        if same and (array.size == 0 or np.can_cast(array.dtype, self.dtype, casting)):
            return array.astype(self.dtype, copy=False)
        shape = "of any length" if self.shape is None else list(self.shape)
        raise DataError(
            f"item {row}: the column {self.name!r} is {array.dtype} {list(array.shape)}, that of "
            f"the first items {self.dtype} {shape}; blocks of rows would not fit together. Let "
            "items give one type and shape; rows of different lengths as lists, which are always "
            "taken as ragged"
        )


class ItemSource:
    """A `Source` over `dataset[0], ..., dataset[len(dataset) - 1]`.

    The order of an epoch is that of `ArraySource`: `generator(seed, "order", epoch)`. The index is
    the `id`. An item is read once per epoch, so a random transform inside the data set gives the
    trained row the very view that was scored.

    What a column is, is said by its type and by the first 64 items, never by those of a pool. A
    list of numbers is ragged, also where all rows have one length; tensors and arrays are if their
    shapes differ among the first items, and an item that differs later is an error.

    Args:
        dataset: Items are mappings of columns, or tuples in the order of `names`, of tensors,
            arrays, numbers, strings or pictures; `__getitems__` is used where there is one.
        names: Columns of the items that are tuples or a single value.
        seed: Seed of the orders.

    Raises:
        DataError: The data set is empty, or its items do not fit each other or `names`.
    """

    def __init__(self, dataset: Any, names: Sequence[str], *, seed: int = 0) -> None:
        self._dataset = dataset
        self._names = tuple(names)
        self._seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None
        self._columns: list[_Column] = []
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} has no items; nothing could be trained.")
        first = self._rows(np.arange(min(LOOKED_AT, len(dataset))))
        self._columns = [_Column.of(name, [item[name] for item in first]) for name in first[0]]

    @property
    def num_rows(self) -> int:
        """Items of the data set."""
        return len(self._dataset)

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Items [start, stop) of the epoch's permutation; `None` is the order given."""
        return self._read(self.index(epoch, start, stop))

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Indices of the items [start, stop) of the epoch's permutation. int64 [stop - start]"""
        check_span(start, stop, self.num_rows)
        return np.arange(start, stop) if epoch is None else self._permutation(epoch)[start:stop]

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64]
    ) -> Batch:
        """The items at some positions of [start, stop); no other is asked for."""
        return self._read(self.index(epoch, start, stop)[rows])

    def _read(self, rows: Ids) -> Batch:
        items = self._rows(rows)
        columns = {c.name: c.stack([item[c.name] for item in items], rows) for c in self._columns}
        return {**columns, ID: rows}

    @property
    def names(self) -> list[str]:
        """Columns of the items."""
        return [column.name for column in self._columns]

    def _rows(self, rows: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        """Items by column, all with the same ones."""
        items = [
            self._by_column(item, row) for row, item in zip(rows, self._items(rows), strict=True)
        ]
        known = self.names if self._columns else list(items[0] if items else ())
        for row, item in zip(rows, items, strict=True):
            if item.keys() != set(known):
                raise DataError(
                    f"item {row} has the columns {sorted(item)}, another {sorted(known)}; all "
                    "items must have the same."
                )
        return items

    def _items(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        many = getattr(self._dataset, "__getitems__", None)  # what torch's own fetcher looks for
        if callable(many):
            return list(many(rows.tolist()))
        return [self._dataset[row] for row in rows.tolist()]

    def _by_column(self, item: Any, row: int) -> dict[str, Any]:
        if isinstance(item, Mapping):
            return {name: value for name, value in item.items() if name != ID}
        values = item if isinstance(item, tuple | list) else (item,)
        if len(values) != len(self._names):
            raise DataError(
                f"item {row} has {len(values)} values for the columns {', '.join(self._names)}; "
                "name them in data=raysb.Data(inputs=(...), target=...), with target=None where "
                "there is none, or let items be dicts."
            )
        return dict(zip(self._names, values, strict=True))

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            order = generator(self._seed, "order", epoch).permutation(self.num_rows)
            self._order = (epoch, order)
        return self._order[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None}


def _array(value: Any) -> npt.NDArray[Any]:
    """A tensor, picture, number, or anything else as numpy sees it."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
