"""The parquet file of scores: written beside its place a row group at a time, renamed at the end.

column        type                    where
id            int64                   always
file          dictionary of string    always; null for rows from memory
row           int64                   always: position in the file
loss          float32                 rows with a right answer
margin        float32                 classes: p_(1) - p_(2)
label_margin  float32                 classes and labels: p_label - the largest other one
entropy       float32                 classes, in nats
prediction    int64, float32, list    a class; the value, or values, of a regression
label         int64, or as given      one number a row
correct       bool                    where the loss tells right from wrong
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raysb.scan.job import LABEL
from raysb.schema import CORRECT, ID, LOSS, Batch, concatenate, num_rows, take
from raysb.scoring.scores import ENTROPY, LABEL_MARGIN, MARGIN, PREDICTION
from raysb.source.spans import Origin

FILE, ROW = "file", "row"
ORDER = (ID, FILE, ROW, LOSS, MARGIN, LABEL_MARGIN, ENTROPY, PREDICTION, LABEL, CORRECT)
GROUP_ROWS = 1 << 17
ENDINGS = (".parquet",)

FILES = pa.dictionary(pa.int32(), pa.string())


def check_out(
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    key: str = "out",
    endings: Sequence[str] = ENDINGS,
) -> Path:
    """Refuse a path that a file cannot be written to; nothing is written.

    Args:
        out: The file.
        overwrite: Whether one of this name may be replaced.
        key: What it was given as, for messages.
        endings: The formats that can be written.

    Raises:
        ValueError: It exists, is a folder or a URI, its folder is not there or not writable, or
            its name ends otherwise.
    """
    path, given = Path(out), f"{key}={os.fspath(out)}"
    if "://" in os.fspath(out):
        raise ValueError(f"{given}: must be a local path; copy the file elsewhere afterwards")
    if path.is_dir() or not path.name:
        example = path / f"{key}{endings[0]}"
        raise ValueError(f"{given}: is a folder; name a file in it, e.g. {example}")
    if path.suffix.lower() not in endings:
        raise ValueError(
            f"{given}: the name must end in {' or '.join(endings)}, which is what is written; a "
            f"file of another name would not be what it says. Try {path.with_suffix(endings[0])}"
        )
    if os.path.lexists(path) and not overwrite:
        raise ValueError(
            f"{given}: exists already and would be overwritten; name another file, or say so with "
            "--overwrite (overwrite=True)"
        )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{given}: there is no folder {folder}; create it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{given}: no permission to write into {folder}; name another file")
    return path


class ScoreFile:
    """Takes blocks of rows in order; what is written so far is nobody's file until all are there.

    Leaving the block of its `with` by an error removes what was written.

    Args:
        path: From `check_out`.
        origin: Files and rows behind the numbers of rows.
        overwrite: Whether a file of this name may be replaced.
    """

    def __init__(self, path: Path, origin: Origin, *, overwrite: bool = False) -> None:
        self.path = path
        self.num_rows = 0
        self.columns: list[str] = []
        self._origin = origin
        self._overwrite = overwrite
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[Batch] = []
        self._num_waiting = 0

    def write(self, start: int, batch: Batch) -> None:
        """Add the next rows.

        Args:
            start: Number of the first one.
            batch: Columns of scores with `id`.

        Raises:
            RuntimeError: These are not the next rows.
        """
        expected = self.num_rows + self._num_waiting
        if start != expected:
            raise RuntimeError(
                f"row {start} arrived where row {expected} is next: rows were lost or came twice. "
                "The file is not written; please report this"
            )
        self._waiting.append(batch)
        self._num_waiting += num_rows(batch)
        if self._num_waiting >= GROUP_ROWS:
            self._flush(GROUP_ROWS)

    def finish(self) -> int:
        """Write what waits and give the file its name; returns its bytes.

        Raises:
            ValueError: A file of this name has appeared meanwhile.
        """
        self._flush(1)
        if self._writer is None:
            raise RuntimeError("no rows have arrived, so there is no file of scores")
        self._writer.close()
        check_out(self.path, overwrite=self._overwrite)
        os.replace(self._part, self.path)
        return self.path.stat().st_size

    def _flush(self, least: int) -> None:
        """Write row groups while at least so many rows wait."""
        if self._num_waiting < least:
            return
        rows = concatenate(self._waiting)
        start = 0
        while self._num_waiting >= least:
            stop = min(start + GROUP_ROWS, num_rows(rows))
            self._write_group(take(rows, slice(start, stop)))
            self._num_waiting -= stop - start
            start = stop
        self._waiting = [take(rows, slice(start, None))] if self._num_waiting else []

    def _write_group(self, batch: Batch) -> None:
        file, row = self._origin.locate(self.num_rows, self.num_rows + num_rows(batch))
        arrays: dict[str, Any] = {name: _to_arrow(column) for name, column in batch.items()}
        arrays |= {FILE: file_names(self._origin.files, file), ROW: pa.array(row)}
        table = pa.table({name: arrays[name] for name in ORDER if name in arrays})
        if self._writer is None:
            self.columns = table.column_names
            self._writer = pq.ParquetWriter(
                self._part, table.schema, compression="zstd", write_page_checksum=True
            )
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self.num_rows += table.num_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
        self._part.unlink(missing_ok=True)


def file_names(files: Sequence[str | None], index: npt.NDArray[np.int64]) -> pa.DictionaryArray:
    """Names of files by row; only those that occur are in the dictionary of a row group."""
    used, codes = np.unique(index, return_inverse=True)
    names = [files[i] for i in used.tolist()]
    if names == [None]:
        return pa.nulls(len(index), FILES)
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string()))


def _to_arrow(column: npt.NDArray[np.generic]) -> pa.Array:
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
