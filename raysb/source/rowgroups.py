"""The row groups of parquet files: which there are, and how one becomes columns of numpy."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raysb.errors import DataError
from raysb.schema import ID, Batch, Ids, take
from raysb.source.columns import to_numpy
from raysb.source.files import Paths, find_files
from raysb.source.footer import DAMAGED, check_plain, open_parquet, read_footer, told
from raysb.source.split import Part
from raysb.source.table import (
    FILE_SHIFT,
    PLACE,
    as_ids,
    check_columns,
    duplicate_error,
    first_duplicate,
)

_MAX_CHECKED = 5_000_000  # ids looked through for duplicates: 40 MB and under 2 s
_THREADS = 16  # footers of many files on a remote store are read side by side


@dataclass(frozen=True, kw_only=True)
class RowGroups:
    """What a process needs to load any row group: paths and numbers, no open file.

    Args:
        filesystem: Where the files are.
        files: Their paths.
        file: Index into `files` of each group. int64 [groups]
        group: Number of each group in its file. int64 [groups]
        first: Number in its file of each group's first row. int64 [groups]
        rows: Rows of each group as stored. int64 [groups]
        columns: Columns to load.
        id_column: Column with the ids; None numbers the rows by (file, row).
        parts: Sides of splits by id to which the rows are restricted.
    """

    filesystem: fs.FileSystem
    files: list[str]
    file: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: tuple[str, ...]
    id_column: str | None
    parts: tuple[Part, ...] = ()

    def load(self, group: int) -> Batch:
        """Columns, `id` and `PLACE` of the rows of one group that belong to the parts."""
        names = {*self.columns} if self.id_column is None else {*self.columns, self.id_column}
        table = self.table(group, sorted(names))
        with self._damage_told(group):
            batch = {
                name: to_numpy(table[name], self._column(group, name)) for name in self.columns
            }
            batch[PLACE] = self._places(group)
            batch[ID] = ids = self._ids(group, table)
        return take(batch, np.flatnonzero(self._kept(ids))) if self.parts else batch

    def ids(self, group: int) -> Ids:
        """Ids of the rows of one group that belong to the parts."""
        names = [] if self.id_column is None else [self.id_column]
        ids = self._ids(group, self.table(group, names) if names else None)
        return ids[self._kept(ids)]

    def table(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a group as stored; a missing value is an error that names its row."""
        # Opened anew each time: an open file cannot be sent to a reader's process, and the footer
        # is small beside a row group.
        with (
            self._damage_told(group),
            self.filesystem.open_input_file(self.files[self.file[group]]) as stream,
        ):
            reader = open_parquet(stream, pre_buffer=True)
            table = reader.read_row_group(
                int(self.group[group]), columns=list(columns), use_threads=False
            )
            if len(table) != self.rows[group]:
                raise EOFError(f"{len(table):,} rows in place of {self.rows[group]:,}")
        for name in columns:
            self._check_values(group, name, table[name])
        return table

    def place(self, place: int) -> str:
        """File and row, in words, of what `PLACE` or an id made from (file, row) holds."""
        return f"{self.files[place >> FILE_SHIFT]} row {place & ((1 << FILE_SHIFT) - 1)}"

    def find(self, column: str, value: int) -> str:
        """The first row with a value in a column of numbers, in words."""
        for group in range(len(self.rows)):
            values = to_numpy(self.table(group, [column])[column], column)
            if (rows := np.flatnonzero(values == value)).size:
                return self.place(int(self._places(group)[rows[0]]))
        return f"no row of {self.files[0]}"

    def check_ids(self) -> None:
        """Refuse ids that name two rows, as far as the rows are few enough to look."""
        if self.id_column is None or int(self.rows.sum()) > _MAX_CHECKED:
            return
        groups = range(len(self.rows))
        ids = np.concatenate([self.ids(group) for group in groups])
        if (pair := first_duplicate(ids)) is not None:
            places = np.concatenate([self._places(group) for group in groups])
            first, second = (self.place(int(places[row])) for row in pair)
            raise duplicate_error(int(ids[pair[0]]), first, second)

    def _damage_told(self, group: int) -> AbstractContextManager[None]:
        return told(
            f"{self.files[self.file[group]]}: row group {self.group[group]} cannot be read",
            DAMAGED,
        )

    def _check_values(self, group: int, name: str, column: pa.ChunkedArray) -> None:
        if not column.null_count:
            return
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(
            f"{self.place(int(self._places(group)[row]))}: no value in the column {name!r} "
            f"({column.null_count} such rows in this row group). Remove them, or fill them in."
        )

    def _kept(self, ids: Ids) -> npt.NDArray[np.bool_]:
        keep = np.ones(len(ids), np.bool_)
        for part in self.parts:
            keep &= part.keep(ids)
        return keep

    def _places(self, group: int) -> npt.NDArray[np.int64]:
        first = (int(self.file[group]) << FILE_SHIFT) + int(self.first[group])
        return np.arange(first, first + int(self.rows[group]), dtype=np.int64)

    def _ids(self, group: int, table: pa.Table | None) -> Ids:
        if self.id_column is None or table is None:
            return self._places(group)
        where = self._column(group, self.id_column)
        return as_ids(to_numpy(table[self.id_column], where), where)

    def _column(self, group: int, name: str) -> str:
        return f"{self.files[self.file[group]]}, column {name!r}"


def open_row_groups(
    paths: Paths, *, columns: tuple[str, ...], id_column: str | None, filesystem: Any = None
) -> tuple[RowGroups, list[pq.FileMetaData]]:
    """Read the footers of all files and check that they belong together.

    Args:
        paths: See `find_files`.
        columns: Columns to load.
        id_column: Column with the ids; None takes an integer column `id` where there is one.
        filesystem: See `find_files`.

    Returns:
        The row groups, and the footer of each file.

    Raises:
        FileNotFoundError: A path matches nothing.
        DataError: Not parquet, no rows, a missing column, types that differ between files, or one
            of Ray's own.
    """
    filesystem, files = find_files(paths, filesystem=filesystem)
    with ThreadPoolExecutor(_THREADS) as pool:
        footers = list(pool.map(lambda file: read_footer(filesystem, file), files))
    schemas = [footer.schema.to_arrow_schema() for footer in footers]
    if (
        id_column is None
        and ID in schemas[0].names
        and pa.types.is_integer(schemas[0].field(schemas[0].names.index(ID)).type)
    ):
        id_column = ID
    wanted = [*columns] if id_column is None else [*columns, id_column]
    for file, schema in zip(files, schemas, strict=True):
        check_columns(wanted, schema.names, file)
        _check_types(wanted, schemas[0], files[0], schema, file)
    return _number(filesystem, files, footers, columns, id_column), footers


def _check_types(
    wanted: list[str], first: pa.Schema, first_file: str, schema: pa.Schema, file: str
) -> None:
    for name in wanted:
        check_plain(schema.field(name), file)
        if schema.field(name).type != first.field(name).type:
            raise DataError(
                f"{file}: the column {name!r} is of type {schema.field(name).type}, but of type "
                f"{first.field(name).type} in {first_file}. Rows of both could not be in one "
                "batch: write the files with one schema."
            )


def _number(
    filesystem: fs.FileSystem,
    files: list[str],
    footers: list[pq.FileMetaData],
    columns: tuple[str, ...],
    id_column: str | None,
) -> RowGroups:
    counts = [
        np.array([footer.row_group(g).num_rows for g in range(footer.num_row_groups)], np.int64)
        for footer in footers
    ]
    if sum(int(count.sum()) for count in counts) == 0:
        raise DataError(
            f"{files[0]} ({len(files)} files in all): no rows; nothing could be trained."
        )
    return RowGroups(
        filesystem=filesystem,
        files=files,
        file=np.repeat(np.arange(len(files)), [len(count) for count in counts]),
        group=np.concatenate([np.arange(len(count)) for count in counts]),
        first=np.concatenate([np.cumsum(count) - count for count in counts]),
        rows=np.concatenate(counts),
        columns=columns,
        id_column=id_column,
    )
