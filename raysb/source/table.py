"""What the sources of this package can do beyond `schema.Source`, and checks that they share."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import Ids, Source
from raysb.source.settings import nearest
from raysb.source.split import Part

FILE_SHIFT = 40  # a row without an id gets file << 40 | row: 8 million files of 10^12 rows
PLACE = "__place__"  # column of file << FILE_SHIFT | row, so that an error can name them


class Table(Source, Protocol):
    """A source that can also be split and asked about a column without being read in order."""

    def restrict(self, part: Part) -> "Table":
        """The same rows in the same order, but only those of one part of a split by id."""

    def label_bounds(self, column: str) -> tuple[int, int] | None:
        """Smallest and largest value of an integer column; None where it is not of integers."""

    def find(self, column: str, value: int) -> str:
        """Where a value of a column stands, in words for a message."""


def check_span(start: int, stop: int, num_rows: int) -> None:
    """Refuse rows that an epoch does not have, where numpy would silently give fewer."""
    if not 0 <= start <= stop <= num_rows:
        raise IndexError(f"read({start}, {stop}): an epoch has the rows 0 to {num_rows}.")


def check_columns(wanted: list[str], present: list[str], where: str) -> None:
    """Refuse columns that are not there, naming the nearest one, and names that mean two."""
    for name in wanted:
        if (count := present.count(name)) > 1:
            raise DataError(
                f"{where}: {count} columns are named {name!r}, and nothing says which of them is "
                "meant. Rename them, or write the data with one of them."
            )
        if name not in present:
            raise DataError(
                f"{where}: no column {name!r}; {nearest(name, present)}. "
                "Set data.inputs, data.target and data.id to columns of the data."
            )


def as_ids(column: npt.NDArray[np.generic], where: str) -> Ids:
    """A column of integers as ids, int64 [n].

    Raises:
        DataError: The column is not of integers, or holds one beyond int64.
    """
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise DataError(
            f"{where}: ids must be one integer a row, not {column.dtype} of shape {column.shape}. "
            "Name an integer column in data.id, or leave it out to number the rows."
        )
    if column.dtype == np.uint64 and len(column) and column.max() > np.iinfo(np.int64).max:
        raise DataError(f"{where}: the id {column.max()} does not fit into int64.")
    return column.astype(np.int64)


def first_duplicate(ids: Ids) -> tuple[int, int] | None:
    """Positions of the first two rows with the same id, or None."""
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if not len(same):
        return None
    pair = same[np.argmin(order[same + 1])]
    return int(order[pair]), int(order[pair + 1])


def duplicate_error(value: int, first: str, second: str) -> DataError:
    """The error for an id that names two rows."""
    return DataError(
        f"the id {value} names two rows: {first}, and {second}. Their losses would be mixed up in "
        "the history. Make the ids unique, or name another column in data.id."
    )
