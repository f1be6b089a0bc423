"""How far a pass over the rows is, and what it gave."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from raysb.schema import CORRECT, LOSS, Batch, num_rows


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """What scoring a data set gave.

    Args:
        path: The parquet file.
        columns: Its columns.
        num_rows: Its rows, as many as the data have.
        num_bytes: Its size.
        loss: Mean loss of the rows whose loss is finite; `None` without a loss.
        error: Share of rows that are predicted wrong, in [0, 1]; `None` where nothing tells.
        num_nonfinite: Rows whose loss is NaN or infinite, as it stands in the file.
        start_s: Seconds from the call to the first rows.
        wall_time_s: Seconds from the call to the finished file.
        rows_per_s: Rows after the first block over the time after it, which is that of scoring
            alone; `None` where there was no second one.
    """

    path: str
    columns: tuple[str, ...]
    num_rows: int
    num_bytes: int
    loss: float | None
    error: float | None
    num_nonfinite: int
    start_s: float
    wall_time_s: float
    rows_per_s: float | None

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, text and lists of them."""
        return asdict(self)


@dataclass(kw_only=True)
class Progress:
    """How far the pass over the rows is.

    Args:
        total: Rows in all.
        began: When the call was made, `time.monotonic()`.
    """

    total: int
    began: float
    done: int = 0
    seconds: float = 0.0
    first_rows: int = 0
    first_s: float = 0.0
    loss_sum: float = 0.0
    num_finite: int = 0
    num_nonfinite: int = 0
    num_judged: int = 0
    num_wrong: int = 0

    def add(self, batch: Batch) -> None:
        """Count the rows of a block."""
        self.seconds = time.monotonic() - self.began
        self.done += num_rows(batch)
        if not self.first_rows:
            self.first_rows, self.first_s = self.done, self.seconds
        if LOSS in batch:
            losses = batch[LOSS]
            finite = losses[np.isfinite(losses)]
            self.loss_sum += float(finite.sum(dtype=np.float64))
            self.num_finite += len(finite)
            self.num_nonfinite += len(losses) - len(finite)
        if CORRECT in batch:
            self.num_judged += len(batch[CORRECT])
            self.num_wrong += int(np.count_nonzero(~batch[CORRECT].astype(np.bool_)))

    @property
    def rows_per_s(self) -> float | None:
        """Rows per second after the first block, which waited for the start; `None` until then."""
        later = self.done - self.first_rows
        return later / max(self.seconds - self.first_s, 1e-9) if later else None

    def summary(self, path: Path, columns: Sequence[str], num_bytes: int) -> ScoreSummary:
        """What the whole pass gave, once the file is written."""
        return ScoreSummary(
            path=str(path),
            columns=tuple(columns),
            num_rows=self.done,
            num_bytes=num_bytes,
            loss=self.loss_sum / self.num_finite if self.num_finite else None,
            error=self.num_wrong / self.num_judged if self.num_judged else None,
            num_nonfinite=self.num_nonfinite,
            start_s=self.first_s,
            wall_time_s=time.monotonic() - self.began,
            rows_per_s=self.rows_per_s,
        )


Watch: TypeAlias = Callable[[Progress], None]
