"""Settings of a conversion, and what is common to all that is read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from raysb.errors import DataError
from raysb.source.settings import nearest

ON_ERROR = ("fail", "skip")


@dataclass(frozen=True, kw_only=True)
class Convert:
    """How rows become parquet.

    Args:
        on_error: `fail` at the first row that cannot be used, or `skip` and list such rows.
        classes: Class names in the order of their numbers, as of the training set; None: those
            found, sorted.
        label_column: Of a CSV: the column with the right answer; None: `label` if there is one.
        image_column: Of a CSV: the column with paths of pictures, relative to the CSV.
        features: Of a CSV: numeric columns to join into one input `features`, float32 [n, k];
            `("all",)`: all but id and label.
        file_mb: Size of a file in MB (1e6 bytes), about; also the memory that one takes.
        rows_per_group: Rows of a row group, at most; fewer where they would exceed 32 MB.
        seed: Of the order of the rows.

    Raises:
        ValueError: A value is out of range.
    """

    on_error: str = "fail"
    classes: tuple[str, ...] | None = None
    label_column: str | None = None
    image_column: str | None = None
    features: tuple[str, ...] = ()
    file_mb: int = 128
    rows_per_group: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"--on-error {self.on_error}: {nearest(self.on_error, ON_ERROR)}")
        for name, most in (("file_mb", 1_000), ("rows_per_group", 1_000_000)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"--{name.replace('_', '-')} {value}: must be 1 to {most:,}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed}: must be at least 0 and below 2**63")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("--classes: a name stands there twice, so its number is unknown")


class Reader(Protocol):
    """What rows are read from, in an order that never changes, a bounded part at a time."""

    num_bytes: int  # of all rows, about

    def schema(self) -> pa.Schema:
        """Columns with their types and names of classes, known once all tables were read."""

    def tables(self) -> Iterator[pa.Table]:
        """All rows that can be used, some at a time."""


@dataclass
class Problems:
    """Rows that cannot be used.

    Args:
        on_error: `fail` or `skip`.
        listed: Name and reason of each.
        passed_over: Files that are not meant to be rows, by suffix.
        warnings: What most likely was not meant, with the option that mends it.
    """

    on_error: str
    listed: list[dict[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, why: str) -> None:
        """Note a row; with `fail` it is an error.

        Raises:
            DataError: With `fail`.
        """
        if self.on_error == "fail":
            raise DataError(f"{name}: {why}. Nothing was written; --on-error skip leaves it out.")
        self.listed.append({"name": name, "why": why})

    def pass_over(self, suffix: str) -> None:
        """Count a file that is not meant to be a row."""
        self.passed_over[suffix or "no suffix"] = self.passed_over.get(suffix or "no suffix", 0) + 1


def id_of(name: str) -> int:
    """An id in [0, 2^63) that a row keeps when others come or go: a hash of its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
