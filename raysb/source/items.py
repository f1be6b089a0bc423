"""Rows of a map-style data set of torch: anything with `len(...)` and `[i]`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, Batch
from raysb.seeding import generator
from raysb.source.table import check_span


class ItemSource:
    """A `Source` over `dataset[0], ..., dataset[len(dataset) - 1]`.

    The order of an epoch is that of `ArraySource`: `generator(seed, "order", epoch)`. The index is
    the `id`. An item is read once per epoch, so a random transform inside the data set gives the
    trained row the very view that was scored.

    Args:
        dataset: Items are mappings of columns, or tuples in the order of `names`, of tensors,
            arrays, numbers, strings or pictures; `__getitems__` is used where there is one.
        names: Columns of the items that are tuples or a single value.
        seed: Seed of the orders.

    Raises:
        DataError: The data set is empty.
    """

    def __init__(self, dataset: Any, names: Sequence[str], *, seed: int = 0) -> None:
        self._dataset = dataset
        self._names = tuple(names)
        self._seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None
        if len(dataset) == 0:
            raise DataError(f"{type(dataset).__name__} has no items; nothing could be trained.")

    @property
    def num_rows(self) -> int:
        """Items of the data set."""
        return len(self._dataset)

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Items [start, stop) of the epoch's permutation; `None` is the order given."""
        check_span(start, stop, self.num_rows)
        rows = np.arange(start, stop) if epoch is None else self._permutation(epoch)[start:stop]
        items = [
            self._columns(item, row) for row, item in zip(rows, self._items(rows), strict=True)
        ]
        first = items[0] if items else {}
        for row, item in zip(rows, items, strict=True):
            if item.keys() != first.keys():
                raise DataError(
                    f"item {row} has the columns {sorted(item)}, another {sorted(first)}; all "
                    "items must have the same."
                )
        return {name: _stack([item[name] for item in items]) for name in first} | {ID: rows}

    def _items(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        many = getattr(self._dataset, "__getitems__", None)  # what torch's own fetcher looks for
        if callable(many):
            return list(many(rows.tolist()))
        return [self._dataset[row] for row in rows.tolist()]

    def _columns(self, item: Any, row: int) -> dict[str, Any]:
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


def _stack(values: list[Any]) -> npt.NDArray[Any]:
    """One array of all values; object [n] where their shapes differ, and for text."""
    arrays = [np.asarray(v.detach().cpu() if hasattr(v, "detach") else v) for v in values]
    if len({array.shape for array in arrays}) <= 1 and arrays[0].dtype.kind in "biuf":
        return np.stack(arrays)
    rows = np.empty(len(arrays), object)
    for i, array in enumerate(arrays):
        rows[i] = array if array.ndim else array.item()
    return rows
