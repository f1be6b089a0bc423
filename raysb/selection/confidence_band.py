"""Neither the easiest rows nor the hardest: the band of ranks between two quantiles."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution


@dataclass(kw_only=True)
class ConfidenceBand(Selector):
    """Selects the rows whose rank among the last R losses lies within a band.

        P(l) = |[F-(l), F(l)] and [low, high]| / |[F-(l), F(l)]|

    F- is the share of recent losses below l, F that of those not above it. Where losses differ, P
    is 1 inside the band and 0 outside; equal losses share their ranks, and a group of them that
    reaches over an end of the band is kept at the share of it that lies inside. The share of the
    recent losses that is kept is exactly high - low.

    Easy rows teach little; of the hardest, many have wrong labels: the band leaves out both.

    Args:
        low: Rank where the band begins, at least 0 and below `high`; 0 is the lowest loss.
        high: Rank where it ends, at most 1.
        history: R, losses in the distribution, at least 1.

    Raises:
        ValueError: An argument is out of its range.
    """

    needs_scores: ClassVar[bool] = True

    low: float = 0.4
    high: float = 0.9
    history: int = 1024

    def __post_init__(self) -> None:
        self._check_share("high")
        allowed = f"a number of at least 0 and below high={self.high!r}"
        self._check_number("low", lambda low: 0 <= low < self.high, allowed)
        self._check_whole("history", 1)

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the rows inside the band; draws decide where equal losses reach over its end."""
        losses = self._finite(ids, scores)
        if not len(ids):
            return self._draw(ids, np.zeros(0), draws)
        return self._draw(ids, self.probability(losses, self._given(distribution)), draws)

    def probability(
        self, losses: Floats, distribution: LossDistribution
    ) -> npt.NDArray[np.float64]:
        """P of each loss. float64 [n] in [0, 1]."""
        start, end = distribution.interval(losses)
        inside = np.minimum(end, self.high) - np.maximum(start, self.low)
        return np.clip(inside / (end - start), 0, 1)
