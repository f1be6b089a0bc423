"""How far a cheap score ranks rows as the live model does, and when it no longer may stand in.

Some pools are scored twice: by what stands in, and a slice of them by the live weights in full
precision and size; by a copy that is stale, just before newer weights replace it, and by these. The
ledger keeps what the last few audits said and decides for all scorers.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats

AUDIT_EVERY = 50  # pools at most: one whole pool in 50 costs 2 % of what the live model would
AUDIT_ROWS = 256  # of a pool; the standard error of a rank correlation of .8 is .02
FEW = 3  # audits whose mean decides


class RankAgreement(NamedTuple):
    """How alike two rankings of the same rows are."""

    spearman: float  # in [-1, 1]
    overlap: float  # share of the k highest that both have, in [0, 1]

    @classmethod
    def of(cls, scores: Floats, others: Floats, k: int | None = None) -> "RankAgreement | None":
        """Compare two scores of the same rows.

        Spearman's rho is Pearson's correlation of the ranks, rows of equal score sharing their mean
        rank; among the k highest, rows of equal score are taken in their order.

        Args:
            scores: float [n].
            others: float [n]; a row that is not finite in either is left out.
            k: Rows of the overlap, at least 1; by default a third, rounded up.

        Returns:
            `None` where fewer than two rows are left or all have one score: there is no ranking.

        Raises:
            ValueError: `k` is below 1, or the lengths differ.
        """
        if scores.shape != others.shape or scores.ndim != 1 or (k is not None and k < 1):
            raise ValueError(
                f"RankAgreement.of({scores.shape}, {others.shape}, k={k}): two vectors of one "
                "length are compared, at least the first of each"
            )
        finite = np.isfinite(scores) & np.isfinite(others)
        one, two = scores[finite], others[finite]
        if len(one) < 2 or (one == one[0]).all() or (two == two[0]).all():
            return None
        most = min(math.ceil(len(one) / 3) if k is None else k, len(one))
        rho = float(np.corrcoef(_ranks(one), _ranks(two))[0, 1])
        return cls(rho, len(_highest(one, most) & _highest(two, most)) / most)


def _ranks(scores: Floats) -> npt.NDArray[np.float64]:
    """Ranks from 1, those of equal scores averaged. [n]"""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _highest(scores: Floats, k: int) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[:k].tolist())


def audit_every(rows: int, pool_rows: int) -> int:
    """Pools from one audit to the next: `AUDIT_EVERY`, or an epoch of few rows.

    Else a run of 24 pools would end before anything could be decided.

    Args:
        rows: Of an epoch.
        pool_rows: Of a pool, at least 1.
    """
    return min(AUDIT_EVERY, max(math.ceil(rows / pool_rows), 1))


class Audits:
    """The last few audits of a run, in pool order, and whether scoring fell back.

    Once the mean rank correlation of the last three is below the bound, the live model scores in
    full precision and size until the end of the run. The audit of pool 0 is reported and decides
    nothing: its live weights are those that the run begins with.

    Args:
        least: Bound on the mean rank correlation, in [-1, 1]; -1 is never passed.

    Attributes:
        fallen_back: Whether the live model scores in place of what stood in for it.
    """

    def __init__(self, least: float = -1.0) -> None:
        self.least = least
        self.fallen_back = False
        self._last: dict[int, RankAgreement] = {}

    def add(self, pool: int, agreement: RankAgreement | None) -> bool:
        """Note an audit, or replace it; True when this one ends cheap scoring."""
        if agreement is None or self.fallen_back:
            return False
        self._last[pool] = agreement
        self._last = dict(sorted(self._last.items())[-FEW:])
        decides = len(self._last) == FEW and 0 not in self._last
        self.fallen_back = decides and self._mean().spearman < self.least
        return self.fallen_back

    def _mean(self) -> RankAgreement:
        return RankAgreement(*np.mean(list(self._last.values()), axis=0).tolist())

    def metrics(self) -> dict[str, float]:
        """Means over the last few audits; nothing before the first.

        `agreement` is the rank correlation, `overlap` that of the highest third, and `fallback` is
        1 once the live model scores.
        """
        if not self._last:
            return {}
        mean = self._mean()
        return {
            "agreement": mean.spearman,
            "overlap": mean.overlap,
            "fallback": float(self.fallen_back),
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        last = [[pool, *agreement] for pool, agreement in self._last.items()]
        return {"fallen_back": self.fallen_back, "last": last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.fallen_back = state["fallen_back"]
        self._last = {pool: RankAgreement(*numbers) for pool, *numbers in state["last"]}
