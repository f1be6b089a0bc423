"""A chance that falls exponentially with the rank of the loss, from the highest to the lowest."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution


@dataclass(kw_only=True)
class RankSampling(Selector):
    """Selects rows with a chance that falls exponentially with their rank.

        P(i) = min(1, c exp(-log(s_e) i / R)),   c such that the P of the R losses add up to f R
        s_e = s_0 ^ (1 - epoch / E), 1 from epoch E on

    i counts the recent losses above, 0 for the highest. The highest loss is s_e times as likely as
    the lowest, unless the highest reach 1. The source draws batches with replacement from a table
    of the latest known losses, p(i) proportional to the same exponential; here rows are drawn
    independently, so none comes twice. Equal losses share the mean of their ranks' chances.

    Args:
        fraction: f, the share of recent losses that is kept, above 0 and at most 1.
        pressure: s_0, the selection pressure, at least 1 (all rows alike).
        decay_epochs: E, epochs in which the pressure falls to 1; 0: it stays.
        history: R, losses in the distribution, at least 1.

    Raises:
        ValueError: An argument is out of its range.

    References:
        I. Loshchilov, F. Hutter: Online Batch Selection for Faster Training of Neural Networks,
        2015. https://arxiv.org/abs/1511.06343
    """

    needs_scores: ClassVar[bool] = True

    fraction: float = 0.5
    pressure: float = 100.0
    decay_epochs: int = 0
    history: int = 1024

    def __post_init__(self) -> None:
        self._check_share("fraction")
        self._check_number("pressure", lambda s: 1 <= s < math.inf, "a finite number, at least 1")
        self._check_whole("decay_epochs", 0)
        self._check_whole("history", 1)

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the rows whose draw lies below their probability."""
        losses = self._finite(ids, scores)
        if not len(ids):
            return self._draw(ids, np.zeros(0), draws)
        probability = self.probability(losses, self._given(distribution), draws.epoch)
        return self._draw(ids, probability, draws)

    def pressure_at(self, epoch: int) -> float:
        """s_e of an epoch, from 0."""
        left = max(1 - epoch / self.decay_epochs, 0.0) if self.decay_epochs else 1.0
        return float(self.pressure**left)

    def probability(
        self, losses: Floats, distribution: LossDistribution, epoch: int = 0
    ) -> npt.NDArray[np.float64]:
        """P of each loss. float64 [n] in (0, 1]."""
        rate = math.log(self.pressure_at(epoch))
        certain, height = _density(rate, self.fraction)
        start, end = distribution.interval(losses)
        first, last = 1 - end, 1 - start  # from the highest loss on
        below = np.maximum(first, certain), np.maximum(last, certain)
        surely = np.clip(certain - first, 0, last - first)
        # the integral of an exponential over the ranks of a loss, without cancellation
        width = below[1] - below[0]
        scaled = -np.expm1(-rate * width) / rate if rate else width
        drawn = height * np.exp(-rate * (below[0] - certain)) * scaled
        return np.clip((surely + drawn) / (last - first), 0, 1)


def _density(rate: float, fraction: float) -> tuple[float, float]:
    """Where P leaves 1, as a share of the ranks, and its height from there on.

    With u = i / R the ranks from the top and r = log(s_e), the integral of min(1, c exp(-r u)) over
    [0, 1] is to be f: c = f r / (1 - exp(-r)) if that is at most 1; otherwise P is 1 up to u0 and
    exp(-r (u - u0)) beyond, with u0 + (1 - exp(-r (1 - u0))) / r = f.
    """
    height = fraction * rate / -math.expm1(-rate) if rate else fraction
    if height <= 1:
        return 0.0, height
    low, high = 0.0, fraction
    for _ in range(60):  # halvings: as exact as a float in [0, 1]
        middle = (low + high) / 2
        kept = middle - math.expm1(-rate * (1 - middle)) / rate
        low, high = (middle, high) if kept < fraction else (low, middle)
    return high, 1.0
