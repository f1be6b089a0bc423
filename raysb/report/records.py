"""Metrics of a run: one JSON object a line, only ever appended to.

Keys are those of the run (`step`, `epoch`, `num_scored`, `score/loss`, ...); a number that is NaN
or infinite keeps its key and becomes null, because JSON knows neither.
"""

import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from raysb.errors import DataError, RunDirectoryError
from raysb.report.directory import METRICS
from raysb.report.directory import RunDirectory as RunDirectory


class MetricsWriter:
    """Appends records to a file; a record has left the process when `write` returns.

    Where the disk has no room, records wait for the next call, with a warning: a full disk ends no
    run, and leaves no half of a line in the middle of the file.

    Opening a file whose last line was cut off by a crash drops that line.

    Args:
        path: The file; created where it does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        _drop_torn_line(Path(path))
        self._file = open(path, "ab", buffering=0)
        self._waiting: list[bytes] = []
        self._told = False

    def write(self, record: Mapping[str, object]) -> None:
        """Append one record: numbers, text, lists and tables of them, also scalars of numpy."""
        line = json.dumps(_plain(record), allow_nan=False, separators=(", ", ": "))
        self._waiting.append(line.encode() + b"\n")
        self._write_waiting()

    def _write_waiting(self) -> None:
        text = b"".join(self._waiting)
        handle = self._file.fileno()
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, text) < len(text):  # one call: a reader sees whole lines
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(handle, size)
            self._warn(f"{error.strerror}; its lines wait for room, and the run goes on")
        else:
            self._waiting, self._told = [], False

    def _warn(self, what: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(f"{self._file.name} cannot be written: {what}", stacklevel=4)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._file.closed:
            return
        if self._waiting:
            self._write_waiting()
        if self._waiting:
            self._told = False
            self._warn(f"its last {len(self._waiting)} lines are lost")
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read the records of a run, also of one that is still under way.

    A last line that is not whole yet is left out, and so is what a run had written after the
    checkpoint from which it was resumed, or all where it began anew before its first: those steps
    were done again.

    Args:
        run: A run directory, or its metrics file.

    Returns:
        The records in the order of the run; null is None.

    Raises:
        RunDirectoryError: There is no run.
        DataError: A line in the middle is not a record.
    """
    path = Path(run) / METRICS if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise RunDirectoryError(f"{os.fspath(run)} holds no run: there is no {METRICS} in it")
    lines = path.read_bytes().split(b"\n")
    while lines and not lines[-1].strip():
        lines.pop()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number}: not a record: {error}") from None
            continue
        if records[-1].get("kind") in ("start", "resume"):
            first = records[-1].get("line", 0)
            records = [r for r in records[:-1] if r.get("line", 0) < first] + records[-1:]
    return records


def _record(line: bytes) -> dict[str, Any]:
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        raise ValueError("expected an object")
    return record


def _plain(value: Any) -> Any:
    """What JSON can say: tables, lists, text, and finite numbers or null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):  # scalars and arrays of numpy, tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
