"""Sums over the run: what metrics are made of, and the ids whose loss was not finite.

A pool that is scored a second time, after a death or a restart, replaces what it added before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from raysb.scoring.records import PoolRecord


class PoolSums(NamedTuple):
    """What one pool adds to the totals of its epoch."""

    num_offered: int
    num_scored: int
    num_selected: int
    num_correct: int
    num_judged: int
    loss_sum: float
    num_nonfinite: int


@dataclass
class Totals:
    """Sums over the run; what the live line and the metrics are made of."""

    num_offered: int = 0
    num_scored: int = 0
    num_selected: int = 0
    num_correct: int = 0
    num_judged: int = 0
    loss_sum: float = 0.0
    num_nonfinite: int = 0
    score_seconds: float = 0.0


@dataclass
class RunTotals:
    """Sums by epoch, and what each pool that may come again has added to them.

    Attributes:
        num_scored: Rows scored by the run, replays once.
        epochs: Sums by epoch.
        nonfinite: Ids whose loss was not finite, with how often.
        pools: By pool, past generations' too: what it added, and its ids that were not finite.
    """

    num_scored: int = 0
    epochs: dict[int, Totals] = field(default_factory=dict)
    nonfinite: dict[int, int] = field(default_factory=dict)
    pools: dict[int, tuple[PoolSums, tuple[int, ...]]] = field(default_factory=dict)

    def add(self, record: PoolRecord) -> Totals:
        """Count a pool, once; returns the sums of its epoch."""
        totals = self.epochs.setdefault(record.epoch, Totals())
        before, listed = self.pools.get(record.pool, (PoolSums(0, 0, 0, 0, 0, 0.0, 0), ()))
        now = PoolSums(
            record.num_rows,
            record.num_scored,
            record.num_selected,
            record.num_correct or 0,
            0 if record.num_correct is None else record.num_scored,
            float(record.losses.sum(dtype=np.float64)),
            len(record.nonfinite),
        )
        for name, old, new in zip(PoolSums._fields, before, now, strict=True):
            setattr(totals, name, getattr(totals, name) + new - old)
        self.num_scored += now.num_scored - before.num_scored
        totals.score_seconds += record.seconds
        ids = tuple(record.nonfinite.tolist())
        self.pools[record.pool] = (now, ids)
        for sample, change in [*((i, -1) for i in listed), *((i, 1) for i in ids)]:
            self.nonfinite[sample] = self.nonfinite.get(sample, 0) + change
            if not self.nonfinite[sample]:
                del self.nonfinite[sample]
        return totals

    def accuracy_before(self, epoch: int, rows: int) -> float | None:
        """Share predicted rightly of the rows judged in the newest earlier epoch that is over.

        Args:
            epoch: Only those before it count, so that a pool that comes again is told the same.
            rows: Of a whole epoch, whether or not all of them were scored.
        """
        for earlier in range(epoch - 1, -1, -1):
            sums = self.epochs.get(earlier)
            if sums is not None and sums.num_judged and sums.num_offered >= rows:
                return sums.num_correct / sums.num_judged
        return None

    def newest(self, also: int | None = None) -> dict[int, dict[str, Any]]:
        """Sums of the last three epochs, and of one more that is asked for, as plain numbers."""
        last = sorted(self.epochs)[-3:]
        return {e: vars(sums).copy() for e, sums in self.epochs.items() if e in last or e == also}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {
            "epochs": {str(epoch): vars(totals).copy() for epoch, totals in self.epochs.items()},
            "nonfinite": {str(sample): count for sample, count in self.nonfinite.items()},
            "sums": [[q, list(sums), list(ids)] for q, (sums, ids) in self.pools.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the sums of a checkpoint."""
        self.epochs = {int(epoch): Totals(**sums) for epoch, sums in state["epochs"].items()}
        self.num_scored = sum(totals.num_scored for totals in self.epochs.values())
        self.nonfinite = {int(sample): count for sample, count in state["nonfinite"].items()}
        self.pools = {q: (PoolSums(*sums), tuple(ids)) for q, sums, ids in state["sums"]}
