"""Rows from parquet files on any file system of pyarrow; nothing needs to fit in memory.

Row groups are permuted every epoch and rows shuffled within windows of several of them
(`GroupedSource`); pictures are decoded after that, so a window holds encoded bytes.
"""

import copy
import json
from dataclasses import replace
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from raysb.source.decoded import DecodedSource
from raysb.source.files import Paths
from raysb.source.footer import DAMAGED, told
from raysb.source.formats import SAMPLE, Formats, find_formats
from raysb.source.grouped import GroupedSource
from raysb.source.rowgroups import RowGroups, open_row_groups
from raysb.source.settings import Data
from raysb.source.split import Part
from raysb.source.table import PLACE


class ParquetSource(DecodedSource):
    """A `Source` over parquet files.

    It pickles as paths and numbers, some 32 bytes per row group, so that other processes may read.

    Args:
        paths: A file, folder, glob or URI, or several on one file system.
        data: Names of the columns (`inputs`, `target`, `id`), `image_size`, `shuffle_window`.
        seed: Seed of the orders.
        filesystem: A `pyarrow.fs` or fsspec file system; None finds it from the path.

    Raises:
        FileNotFoundError: A path matches nothing.
        DataError: A file is not parquet or is damaged; there are no rows; a column is missing, or
            of different types in two files; ids are not integers, or name two rows (looked for up
            to 5 million rows); the target misses a value; one of the first 64 pictures cannot be
            decoded. Rows that only show later to be unusable raise it from `read`. Every message
            names the file, and the row where there is one.
    """

    def __init__(self, paths: Paths, *, data: Data, seed: int = 0, filesystem: Any = None) -> None:
        target = () if data.target is None else (data.target,)
        columns = tuple(dict.fromkeys([*data.inputs, *target, *data.also]))
        self._groups, footers = open_row_groups(
            paths, columns=columns, id_column=data.id, filesystem=filesystem
        )
        self._groups.check_ids()
        self._seed, self._window = seed, data.shuffle_window
        self._rows = self._grouped(self._groups, self._groups.rows.tolist())
        with told(f"{self._groups.files[0]}: its statistics cannot be read", DAMAGED):
            self._bounds = {name: _bounds(self._groups, footers, name) for name in target}
        self._formats = self._find_formats(footers[0].schema.to_arrow_schema(), data)

    @property
    def files(self) -> list[str]:
        """Paths of the files, in the order that numbers them."""
        return list(self._groups.files)

    def restrict(self, part: Part) -> Self:
        """The rows of one part of a split by id; reads the id column once to count them.

        Raises:
            DataError: The part has no rows.
        """
        restricted = copy.copy(self)
        restricted._groups = replace(self._groups, parts=(*self._groups.parts, part))
        rows = [len(restricted._groups.ids(group)) for group in range(len(self._groups.rows))]
        restricted._rows = self._grouped(restricted._groups, rows)
        return restricted

    def label_bounds(self, column: str) -> tuple[int, int] | None:
        """Smallest and largest value of the target in all files; None where not of integers."""
        return self._bounds.get(column)

    def find(self, column: str, value: int) -> str:
        """File and row of the first row with this value in an integer column."""
        return self._groups.find(column, value)

    def _grouped(self, groups: RowGroups, rows: list[int]) -> GroupedSource:
        return GroupedSource(rows, groups.load, seed=self._seed, window=self._window)

    def _words(self, place: int) -> str:
        return self._groups.place(place)

    def _find_formats(self, schema: pa.Schema, data: Data) -> Formats:
        sample = self._rows.read(None, 0, min(SAMPLE, self.num_rows))
        return find_formats(
            sample,
            inputs=data.inputs,
            image_size=data.image_size,
            place=self._placed(sample[PLACE]),
            metadata={name: _metadata(schema, name) for name in data.inputs},
        )


def _metadata(schema: pa.Schema, name: str) -> dict[str, Any]:
    """`shape` and `encoding` as the file's metadata, or the column's own, say."""
    raw = {**(schema.metadata or {}), **(schema.field(name).metadata or {})}
    found: dict[str, Any] = {}
    if b"shape" in raw:
        try:
            found["shape"] = tuple(int(side) for side in json.loads(raw[b"shape"]))
        except (ValueError, TypeError, OverflowError, RecursionError):
            pass  # somebody else's `shape`
        shape = found.get("shape", ())
        if len(shape) not in (2, 3) or min(shape) < 1:
            found.pop("shape", None)
    if b"encoding" in raw:
        found["encoding"] = raw[b"encoding"].decode(errors="replace")
    return found


def _bounds(
    groups: RowGroups, footers: list[pq.FileMetaData], column: str
) -> tuple[int, int] | None:
    """Smallest and largest value of an integer column, from the footers where they tell."""
    kind = footers[0].schema.to_arrow_schema().field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        return None
    lows, highs = [], []
    for i in range(len(groups.rows)):
        if groups.rows[i] == 0:
            continue
        low, high = _from_footer(footers[groups.file[i]], int(groups.group[i]), column) or (
            _from_rows(groups, i, column)
        )
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)


def _from_footer(footer: pq.FileMetaData, group: int, column: str) -> tuple[int, int] | None:
    """Bounds of a row group without reading it; None if unknown or if values are missing."""
    chunks = footer.row_group(group)
    for i in range(chunks.num_columns):
        stats = chunks.column(i).statistics
        if chunks.column(i).path_in_schema == column and stats is not None:
            if stats.has_min_max and stats.has_null_count and stats.null_count == 0:
                return int(stats.min), int(stats.max)
    return None


def _from_rows(groups: RowGroups, group: int, column: str) -> tuple[int, int]:
    values = groups.table(group, [column])[column].to_numpy()
    return int(values.min()), int(values.max())
