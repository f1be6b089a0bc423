"""From pictures, CSV or parquet to a folder of parquet files that streams well.

Rows lie in random order, so that every row group holds all classes; nothing needs to fit in memory.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysb.errors import DataError
from raysb.schema import ID
from raysb.source.classes import classes_of
from raysb.source.convert.csv import CSV_SUFFIXES, CsvReader
from raysb.source.convert.folder import FolderReader
from raysb.source.convert.labels import CLASSES
from raysb.source.convert.parquet import ParquetReader
from raysb.source.convert.settings import Convert, Problems, Reader
from raysb.source.convert.shuffle import MEMORY, Shuffle
from raysb.source.convert.tar import TAR_SUFFIXES, TarReader
from raysb.source.table import duplicate_error, first_duplicate

SKIPPED = "_skipped.json"  # rows that could not be used
GROUP_BYTES = 32_000_000  # of a row group at most: a reader holds eight of them


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written.

    Args:
        path: The folder.
        num_rows: Rows in all files.
        num_files: Parquet files.
        num_bytes: Their bytes.
        classes: Names of the classes by number; None where there are none.
        columns: Columns with their types.
        skipped: Name and reason of each row left out.
        passed_over: Files that were not meant to be rows, by suffix.
        warnings: What most likely was not meant, with the option that mends it.
    """

    path: str
    num_rows: int
    num_files: int
    num_bytes: int
    classes: tuple[str, ...] | None
    columns: dict[str, str]
    skipped: list[dict[str, str]]
    passed_over: dict[str, int]
    warnings: list[str]


def convert(source: str | Path, out: str | Path, settings: Convert | None = None) -> Converted:
    """Write the rows of a source as parquet; the folder appears when it is complete.

    Args:
        source: A folder of pictures, or with parquet in it, a TAR archive, a CSV, a parquet file.
        out: New folder.
        settings: How.

    Raises:
        FileNotFoundError: There is no such source.
        DataError: Rows cannot be used; nothing is left behind.
        ValueError: `out` exists, or the source is nothing of the above.
    """
    settings = settings or Convert()
    source, out = Path(source).expanduser(), Path(out).expanduser()
    if os.path.lexists(out):
        raise ValueError(
            f"{out} already exists, and would be mixed with what is written. Name another folder, "
            "or remove it."
        )
    problems = Problems(settings.on_error)
    reader = _open(source, settings, problems)
    _check_space(reader.num_bytes, out)
    with _new_folder(out) as folder:
        shuffle = Shuffle(folder / "spill", _num_files(reader.num_bytes, settings), settings.seed)
        ids = [np.empty(0, np.int64)]
        for table in reader.tables():
            ids.append(table[ID].to_numpy())
            shuffle.add(table)
        _check_rows(np.concatenate(ids), source, problems)
        files = _write_files(folder, shuffle, reader.schema(), settings)
        shutil.rmtree(folder / "spill", ignore_errors=True)
        names = _write_notes(folder, reader.schema(), problems)
        num_bytes = sum(file.stat().st_size for file in files)
    return Converted(
        path=str(out),
        num_rows=shuffle.num_rows,
        num_files=len(files),
        num_bytes=num_bytes,
        classes=names,
        columns={field.name: str(field.type) for field in reader.schema()},
        skipped=problems.listed,
        passed_over=problems.passed_over,
        warnings=problems.warnings,
    )


def _open(source: Path, settings: Convert, problems: Problems) -> Reader:
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    name = source.name.lower()
    kind: Any = None
    if source.is_dir():
        kind = ParquetReader if any(source.glob("*.parquet")) else FolderReader
    for suffixes, cls in (
        (TAR_SUFFIXES, TarReader),
        (CSV_SUFFIXES, CsvReader),
        ((".parquet",), ParquetReader),
    ):
        kind = cls if source.is_file() and name.endswith(suffixes) else kind
    if kind is None:
        raise ValueError(
            f"{source}: cannot be converted; a folder of pictures or of parquet, or a file that "
            f"ends in {', '.join((*TAR_SUFFIXES, *CSV_SUFFIXES, '.parquet'))} can"
        )
    _check_options(kind, settings)
    opened: Reader = kind(source, settings, problems)
    return opened


def _check_options(kind: Any, settings: Convert) -> None:
    """Refuse options that would be of no effect."""
    for name in ("label_column", "image_column", "features"):
        if getattr(settings, name) and kind is not CsvReader:
            raise ValueError(f"--{name.replace('_', '-')}: only a CSV has columns to choose from")
    if settings.classes is not None and kind is ParquetReader:
        raise ValueError("--classes: rows of parquet keep their labels as they are")


def _num_files(num_bytes: int, settings: Convert) -> int:
    return max(1, -(-num_bytes // (settings.file_mb * 1_000_000)))


def _check_space(num_bytes: int, out: Path) -> None:
    """Refuse what will not fit on the disk: once, and once more for what is shuffled there."""
    parent = next(path for path in out.absolute().parents if path.exists())
    needed = num_bytes * (2 if num_bytes > MEMORY else 1)
    if (free := shutil.disk_usage(parent).free) < needed:
        raise DataError(
            f"{out}: about {needed / 1e9:.1f} GB are needed while it is written, and {parent} has "
            f"{free / 1e9:.1f} GB left. Name a folder on a larger disk."
        )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when the block has ended well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
        folder.rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_rows(ids: Any, source: Path, problems: Problems) -> None:
    if not len(ids):
        told = [f"; the first: {each['name']}: {each['why']}" for each in problems.listed[:1]]
        raise DataError(f"{source}: no row could be used{''.join(told) or ', it holds none'}")
    if (pair := first_duplicate(ids)) is not None:
        first, second = (f"row {row + 1}" for row in pair)
        raise duplicate_error(int(ids[pair[0]]), f"{source} {first}", second)


def _write_files(
    folder: Path, shuffle: Shuffle, schema: pa.Schema, settings: Convert
) -> list[Path]:
    """One file for each bucket, numbered once it is known how many there are."""
    written: list[Path] = []
    for table in shuffle.buckets():
        written.append(folder / f"{len(written)}.part")
        _write_file(written[-1], table.cast(schema), settings.rows_per_group)
    files = [folder / f"part-{i:05d}-of-{len(written):05d}.parquet" for i in range(len(written))]
    for path, file in zip(written, files, strict=True):
        path.rename(file)
    return files


def _write_file(path: Path, table: pa.Table, rows_per_group: int) -> None:
    raw = [f.name for f in table.schema if pa.types.is_binary(f.type)]
    fits = max(1, int(GROUP_BYTES / max(1.0, table.nbytes / len(table))))
    pq.write_table(
        table,
        path,
        row_group_size=min(rows_per_group, fits),
        # pictures are compressed already, and as text of a dictionary they would be held twice
        compression=dict.fromkeys(table.column_names, "zstd") | dict.fromkeys(raw, "none"),
        use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
        write_statistics=[f.name for f in table.schema if f.name not in raw],
        write_page_checksum=True,  # a reader notices a flipped bit, which pixels never would
    )


def _write_notes(folder: Path, schema: pa.Schema, problems: Problems) -> tuple[str, ...] | None:
    """The names of the classes, and what was left out, each where there is any."""
    names = next(filter(None, (classes_of(schema, name) for name in schema.names)), None)
    if names is not None:
        text = json.dumps(list(names), indent=0, ensure_ascii=False)
        (folder / CLASSES).write_text(text + "\n", encoding="utf-8")
    if problems.listed:
        text = json.dumps(problems.listed, indent=0, ensure_ascii=False)
        (folder / SKIPPED).write_text(text + "\n", encoding="utf-8")
    return names
