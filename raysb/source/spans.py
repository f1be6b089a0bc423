"""One pass over rows in the order of the data itself: which spans of it are read at once.

And which file each row comes from, with its id and its right answer.

N rows of the data set.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from raysb.schema import ID, Batch, Ids, Source
from raysb.source.classes import classes_of
from raysb.source.columns import to_numpy
from raysb.source.demo import DEMOS
from raysb.source.parquet import ParquetSource

START = "__start__"  # number of a span's first row
STOP = "__stop__"  # and of the row after its last

SPAN_BYTES = 32 << 20  # decoded rows that travel at once: an object of Ray's, two of them an actor
SHARES = 8  # spans of each process at least, so that none works long after the others


@dataclass(frozen=True)
class Origin:
    """Where the rows of a source lie, in its own order: files one after the other.

    Args:
        files: Names of the files; None for rows that lie in none.
        starts: Number of the first row of each file, and then N. int64 [files + 1]
    """

    files: list[str | None]
    starts: Ids

    def locate(self, start: int, stop: int) -> tuple[Ids, Ids]:
        """Index into `files` and position in that file of rows [start, stop). int64 [n] each."""
        rows = np.arange(start, stop)
        file = np.searchsorted(self.starts, rows, side="right") - 1
        return file, rows - self.starts[file]


def origin_of(source: Source, given: Any = None) -> Origin:
    """Files and rows behind the numbers of rows in `source.read(None, ...)`.

    Parquet has its files. A demo set counts as one file of its name, and rows from memory or from
    an object as one without a name.

    Args:
        source: All the rows of what was opened, not one side of a split.
        given: What it was opened from.
    """
    if not isinstance(source, ParquetSource):
        name = given if isinstance(given, str) and given in DEMOS else None
        return Origin([name], np.array([0, source.num_rows]))
    groups = source._groups
    rows = np.zeros(len(groups.files), np.int64)
    np.add.at(rows, groups.file, groups.rows)
    return Origin([*groups.files], np.concatenate([[0], np.cumsum(rows)]))


def ids_and_target(
    source: Source, target: str | None
) -> tuple[Ids, npt.NDArray[np.generic] | None]:
    """Id and right answer of every row, in the source's own order.

    Of parquet no input is read. A target that is not one number a row is left out.

    Args:
        source: All the rows of what was opened.
        target: Its column; None: rows without one.

    Returns:
        int64 [N]; numbers [N], or None.
    """
    if target is not None:
        first = source.read(None, 0, 1)[target]
        target = target if first.ndim == 1 and first.dtype.kind in "biuf" else None
    if not isinstance(source, ParquetSource):
        rows = source.read(None, 0, source.num_rows)
        return rows[ID].astype(np.int64, copy=False), None if target is None else rows[target]
    groups, numbers = source._groups, range(len(source._groups.rows))
    ids = np.concatenate([groups.ids(group) for group in numbers])
    if target is None:
        return ids, None
    columns = [groups.table(group, [target])[target] for group in numbers]
    return ids, np.concatenate([to_numpy(column, target) for column in columns])


def class_names(source: Source, target: str | None) -> tuple[str, ...] | None:
    """Names of the classes by number, where the files know them."""
    if target is None or not isinstance(source, ParquetSource):
        return None
    groups = source._groups
    with groups.filesystem.open_input_file(groups.files[0]) as stream:
        return classes_of(pq.read_schema(stream), target)


def row_group_starts(source: Source) -> Ids:
    """Ids of rows at which a new piece of storage begins, ascending, with 0 and N. int64."""
    rows = source._groups.rows if isinstance(source, ParquetSource) else [source.num_rows]
    return np.unique(np.concatenate([[0], np.cumsum(rows)]))


def spans(starts: Ids, span_rows: int) -> Ids:
    """Cut rows 0 to N into spans of at most `span_rows`, between two row groups where that can be.

    A process that reads a span loads each of its row groups once, and only a group that does not
    fit into one span is loaded by several processes.

    Args:
        starts: From `row_group_starts`.
        span_rows: At least 1.

    Returns:
        First row of each span, and the row after its last. int64 [spans, 2]
    """
    cuts = [0]
    for group, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        if end - cuts[-1] > span_rows and group > cuts[-1]:
            cuts.append(group)
        cuts.extend(range(cuts[-1] + span_rows, end, span_rows))
    edges = np.array([*cuts, int(starts[-1])], np.int64)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def rows_of_span(first: Batch, *, num_rows: int, batch_size: int, processes: int) -> int:
    """How many rows a span should have: whole batches, few enough to hold and to share out.

    Args:
        first: Some rows, whose bytes say how large one is.
        num_rows: N.
        batch_size: Rows of a forward pass, at least 1.
        processes: Among which the spans are shared, at least 1.
    """
    count = max(len(next(iter(first.values()))), 1)
    by_bytes = SPAN_BYTES * count // max(bytes_of(first), 1)
    by_share = -(-num_rows // (SHARES * processes))
    return max(min(by_bytes, by_share) // batch_size, 1) * batch_size


def bytes_of(rows: Batch) -> int:
    """Bytes of all columns of some rows."""
    return sum(_nbytes(column) for column in rows.values())


def _nbytes(column: npt.NDArray[np.generic]) -> int:
    if column.dtype != object:
        return column.nbytes
    return sum(int(getattr(value, "nbytes", 0)) or len(value) for value in column.tolist())
