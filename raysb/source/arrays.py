"""Rows from arrays in memory: every epoch a true permutation of all rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, Batch, Ids
from raysb.seeding import generator
from raysb.source.split import Part
from raysb.source.table import (
    as_ids,
    check_columns,
    check_span,
    duplicate_error,
    first_duplicate,
)


class ArraySource:
    """A `Source` over columns in memory.

    The order of an epoch is `generator(seed, "order", epoch).permutation(num_rows)`; the last one
    is kept. What is read is copied, so a batch may be written to.

    Args:
        columns: Arrays, or tensors on the CPU, whose first dimension counts rows. Images are uint8
            [N, H, W, C].
        seed: Seed of the orders.
        id_column: Column with the ids; None takes the column `id` if there is one, else numbers
            the rows from 0.

    Raises:
        DataError: No columns or rows, columns of different lengths, ids that are not unique
            integers.
    """

    def __init__(
        self, columns: Mapping[str, Any], *, seed: int = 0, id_column: str | None = None
    ) -> None:
        arrays = {name: as_array(name, column) for name, column in columns.items()}
        self._num_rows = _common_length(arrays)
        self._seed = seed
        if id_column is not None:
            check_columns([id_column], list(arrays), "ArraySource")
        name = ID if id_column is None else id_column
        found = arrays.pop(name, None)
        ids = np.arange(self._num_rows) if found is None else as_ids(found, f"column {name!r}")
        if (pair := first_duplicate(ids)) is not None:
            raise duplicate_error(int(ids[pair[0]]), f"row {pair[0]}", f"row {pair[1]}")
        self._columns: Batch = {**arrays, ID: ids}
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return self._num_rows

    @property
    def columns(self) -> Batch:
        """The arrays themselves, with `id`; not a copy."""
        return self._columns

    @property
    def ids(self) -> Ids:
        """Ids in the given order, int64 [N]."""
        return self._columns[ID].astype(np.int64, copy=False)

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Rows [start, stop) of the epoch's permutation; `None` is the order given."""
        rows = self._places(epoch, start, stop)
        return {name: column[rows] for name, column in self._columns.items()}

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Ids of the rows [start, stop) of the epoch's permutation. int64 [stop - start]"""
        return self.ids[self._places(epoch, start, stop)]

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64]
    ) -> Batch:
        """The rows at some positions of [start, stop)."""
        wanted = self._places(epoch, start, stop)[rows]
        return {name: column[wanted] for name, column in self._columns.items()}

    def restrict(self, part: Part) -> "ArraySource":
        """The rows of one part of a split by id."""
        return self.subset(np.flatnonzero(part.keep(self.ids)))

    def subset(self, rows: npt.NDArray[np.int64]) -> "ArraySource":
        """A source of the given rows, which keep their ids."""
        chosen = {name: column[rows] for name, column in self._columns.items()}
        return ArraySource(chosen, seed=self._seed)

    def label_bounds(self, column: str) -> tuple[int, int] | None:
        """Smallest and largest value of an integer column; None where it is not of integers."""
        values = self._columns[column]
        if values.dtype.kind not in "iub" or values.ndim != 1:
            return None
        return int(values.min()), int(values.max())

    def find(self, column: str, value: int) -> str:
        """The first row with this value."""
        return f"row {int(np.argmax(self._columns[column] == value))}"

    def _places(self, epoch: int | None, start: int, stop: int) -> npt.NDArray[np.int64]:
        check_span(start, stop, self._num_rows)
        return np.arange(start, stop) if epoch is None else self._permutation(epoch)[start:stop]

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            order = generator(self._seed, "order", epoch).permutation(self._num_rows)
            self._order = (epoch, order)
        return self._order[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_order": None}


def as_array(name: str, column: Any) -> npt.NDArray[np.generic]:
    """A column as a numpy array whose first dimension counts rows."""
    if hasattr(column, "detach"):  # a torch tensor, told by what it can do: torch is not imported
        column = column.detach().cpu().numpy()
    try:
        array: npt.NDArray[np.generic] = np.asarray(column)
    except ValueError as error:
        raise DataError(
            f"column {name!r}: its rows have different shapes ({error}). Pad them, or give a "
            "numpy array of dtype object with one array a row."
        ) from error
    if array.ndim == 0:
        raise DataError(f"column {name!r}: {column!r} is one value; an array of rows is needed.")
    return array


def _common_length(arrays: Batch) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if not lengths:
        raise DataError("ArraySource({}): at least one column is needed.")
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns have different numbers of rows: {lengths}.")
    rows = next(iter(lengths.values()))
    if rows == 0:
        raise DataError(f"the columns {', '.join(lengths)} have no rows; nothing could be trained.")
    return rows
