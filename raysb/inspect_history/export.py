"""One row per sample in a file: parquet, or CSV where the name ends in `.csv`.

The columns are those of `raysb.inspect_history.records`, after `id` those of the origin where it is
known, and at the end `suspicion`:

file        dictionary of string  name of the file, or of the demo set
row         int64                 position in it
label       int64, or as given    the right answer, where it is one number a row
suspicion   float64               in (0, 1), `raysb.inspect_history.order`

What is not known is null: a loss that never was finite, the epoch of a thing that never happened.
Where no prediction ever was right (a regression), there are no columns of learning.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from raysb.history.records import NEVER
from raysb.inspect_history.order import SUSPICION, suspicion
from raysb.inspect_history.origin import Located
from raysb.inspect_history.records import RunHistory
from raysb.scan.file import FILE, ROW, file_names
from raysb.scan.job import LABEL
from raysb.schema import ID

EPOCHS = ("first_learned_epoch", "last_epoch")
OF_LEARNING = ("forgetting_events", "first_learned_epoch", "correct")


def to_table(history: RunHistory, located: Located | None) -> pa.Table:
    """All that is known, a row for each sample, by ascending id."""
    columns: dict[str, Any] = {ID: pa.array(history.samples[ID])}
    if located is not None:
        file, row = located.places()
        columns |= {FILE: file_names(located.origin.files, file), ROW: pa.array(row)}
        if located.labels is not None:
            columns[LABEL] = pa.array(located.labels)
    for name, column in history.samples.items():
        if name != ID and (history.judged or name not in OF_LEARNING):
            columns[name] = _to_arrow(name, column)
    columns[SUSPICION] = pa.array(suspicion(history.samples))
    return pa.table(columns)


def write_table(table: pa.Table, path: Path) -> int:
    """Write a table beside its place, then move it there; returns its bytes."""
    if path.suffix.lower() == ".csv":
        place = table.column_names.index(FILE) if FILE in table.column_names else None
        if place is not None:  # CSV has no dictionaries
            table = table.set_column(place, FILE, table[FILE].cast(pa.string()))
        return write_beside(path, lambda part: pyarrow.csv.write_csv(table, part))
    return write_beside(path, lambda part: pq.write_table(table, part, compression="zstd"))


def write_beside(path: Path, write: Callable[[Path], object]) -> int:
    """Have a file written under another name, then give it its own; returns its bytes."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path.stat().st_size


def _to_arrow(name: str, column: npt.NDArray[Any]) -> pa.Array:
    if column.dtype.kind == "f":
        return pa.array(column, mask=np.isnan(column))
    return pa.array(column, mask=column == NEVER) if name in EPOCHS else pa.array(column)
