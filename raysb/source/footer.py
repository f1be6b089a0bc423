"""Opening a parquet file that anybody may have written: what it claims is checked first.

A footer is a few kilobytes that name types and numbers of rows, and memory is taken by what they
say. Types of Ray's own are refused: until Ray 2.55 their metadata were pickles that ran on opening
the file (CVE-2026-41486), and one variable of the environment brings that back.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raysb.errors import DataError

MAX_GROUP_ROWS = 1 << 26  # of a row group; Arrow itself writes no larger ones
MAX_ROWS = 1 << 40  # of a file, from which rows without an id are numbered
DAMAGED = "The file is damaged, or was changed since the start: write it again."
UNPICKLES = "RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"

_RAY = "ray.data."
_NAME = b"ARROW:extension:name"


def open_parquet(file: Any, **how: Any) -> pq.ParquetFile:
    """Open a file so that pages with checksums are held against them.

    Args:
        file: An open file, or a path.
        how: What else `pyarrow.parquet.ParquetFile` takes.

    Raises:
        ValueError: The environment lets Ray unpickle what stands in files.
    """
    if (value := os.environ.get(UNPICKLES, "")).lower() not in ("", "0", "false", "no", "off"):
        raise ValueError(
            f"{UNPICKLES}={value}: with this variable a parquet file can run code of whoever wrote "
            "it. Unset it; where old files need it, write them again in a process of their own."
        )
    return pq.ParquetFile(file, page_checksum_verification=True, **how)


def read_footer(filesystem: fs.FileSystem, file: str) -> pq.FileMetaData:
    """The footer of a file, with a schema that can be read and numbers that can be true.

    Raises:
        DataError: Not parquet, damaged, or of row groups that no reader could hold.
        OSError: The file cannot be opened.
    """
    with filesystem.open_input_file(file) as stream:
        with told(
            f"{file}: not a parquet file, or one that was not written to its end",
            "Name parquet files, a folder of them, or mnist5k.",
        ):
            footer = open_parquet(stream).metadata
            str(footer.schema.to_arrow_schema())  # all names and types, which are bytes until then
            rows = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
    _check_rows(file, rows, footer.num_rows)
    return footer


@contextmanager
def told(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a parser says of damaged bytes into an error that says where they are.

    Raises:
        DataError: `what (reason). remedy`; one that comes from the block is passed on.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of Arrow, of Python's decoders, of types that others registered
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{what} ({reason or type(error).__name__}). {remedy}") from error


def check_plain(field: pa.Field, file: str) -> None:
    """Refuse a column of one of Ray's own tensor types, whether or not Ray is there to tell.

    Raises:
        DataError: It is one.
    """
    stored = (field.metadata or {}).get(_NAME, b"").decode(errors="replace")
    name = str(getattr(field.type, "extension_name", stored))
    if name.startswith(_RAY):
        raise DataError(
            f"{file}: the column {field.name!r} is of Ray's own type {name}, which only Ray can "
            "read, and which has carried code. Write it as a list of numbers, pa.list_(pa.float32()"
            ", length), or as pa.fixed_shape_tensor; or give a ray.data.Dataset that reads it."
        )


def _check_rows(file: str, groups: list[int], total: int) -> None:
    wrong = next((rows for rows in groups if not 0 <= rows <= MAX_GROUP_ROWS), None)
    if wrong is not None:
        raise DataError(
            f"{file}: a row group of {wrong:,} rows, and 0 to {MAX_GROUP_ROWS:,} can be read: its "
            "reader would need the memory for all of them. The footer is damaged, or the rows must "
            "be written again in smaller groups: `raysb data convert`."
        )
    if sum(groups) != total or total > MAX_ROWS:
        raise DataError(
            f"{file}: {total:,} rows by its footer, {sum(groups):,} in its row groups; at most "
            f"{MAX_ROWS:,} can be numbered. The file is damaged: write it again."
        )
