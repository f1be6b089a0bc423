"""The empirical distribution of recent losses, and the rank of a loss in it."""

from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats
from raysb.selection.histogram import LossHistogram

Ties: TypeAlias = Literal["mid", "strict"]
TIES: tuple[Ties, ...] = ("mid", "strict")
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class CountedWindow(NamedTuple):
    """The last losses of a run where they are too many to be passed on one by one."""

    earlier: LossHistogram  # of all but the newest
    recent: Floats  # [m] the newest, oldest first


Window: TypeAlias = Floats | CountedWindow  # the last losses in pool order, R of them or fewer


class LossDistribution:
    """The cumulative distribution function of some losses.

    Args:
        losses: [R], oldest first (the order matters to `recent` alone), all finite.
        earlier: Counts of losses before these, which R then counts too; ranks among them are exact
            to a bin.
        accuracy: See the attribute.

    Attributes:
        accuracy: Share of the rows that were predicted rightly in the last epoch that was scored
            whole, from 0 to 1; none: not known.

    Raises:
        ValueError: A loss is not finite: it would shift the ranks of all others.
    """

    def __init__(
        self,
        losses: npt.NDArray[np.floating],
        earlier: LossHistogram | None = None,
        *,
        accuracy: float | None = None,
    ) -> None:
        if not np.isfinite(losses).all():
            raise ValueError(
                f"LossDistribution: {int((~np.isfinite(losses)).sum())} of {len(losses)} losses "
                "are not finite; leave them out, as select_pool does"
            )
        self._losses = losses
        self._earlier = earlier
        self.accuracy = accuracy

    @classmethod
    def merged(
        cls, window: Window, own: Floats, capacity: int, *, accuracy: float | None = None
    ) -> "LossDistribution":
        """The window after the whole pool was appended: what a deque of `capacity` would hold.

        Args:
            window: The last losses before the pool, oldest first, float32 [<=R]; or counts of them,
                which the pool comes on top of: nothing tells which of those counted are the oldest.
            own: float32 [n], the finite losses of the pool itself.
            capacity: R, at least 1.
            accuracy: See `LossDistribution`.
        """
        if isinstance(window, CountedWindow):
            own = np.concatenate([window.recent, own])
            return cls(own, window.earlier, accuracy=accuracy)
        return cls(np.concatenate([window, own])[-capacity:], accuracy=accuracy)

    def histogram(self) -> LossHistogram:
        """All of the R losses, by their counts."""
        counted = LossHistogram(self._losses)
        if self._earlier is not None:
            counted.merge(self._earlier)
        return counted

    @cached_property
    def _sorted(self) -> npt.NDArray[np.floating]:
        return np.sort(self._losses)

    def __len__(self) -> int:
        return len(self._losses) + (0 if self._earlier is None else len(self._earlier))

    def cdf(self, losses: npt.NDArray[np.floating], ties: Ties = "mid") -> npt.NDArray[np.float64]:
        """Rank each loss among the R losses of the distribution.

        mid:    (#less + #equal / 2) / R
        strict: #less / R, the rank of the original code

        Args:
            losses: [n], finite.
            ties: "mid" or "strict". With "strict" losses that are all equal rank 0.

        Returns:
            float64 [n] in [0, 1].

        Raises:
            ValueError: The distribution is empty.
        """
        self._require_losses("cdf")
        less, not_above = self._counts(losses)
        return less / len(self) if ties == "strict" else (less + not_above) / (2 * len(self))

    def interval(
        self, losses: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The ranks that each loss takes up: from #less / R to (#less + #equal) / R.

        Equal losses share an interval; a loss that is none of the R takes up the 1/R beside it. The
        mean over its interval of a probability given by rank is the chance of a loss with which
        ties are neither preferred nor put at a disadvantage, and with which the chances of the R
        losses add up to R times the integral of that probability, exactly.

        Args:
            losses: [n], finite.

        Returns:
            Two arrays float64 [n] in [0, 1], the second larger by at least 1/R.

        Raises:
            ValueError: The distribution is empty.
        """
        self._require_losses("interval")
        size = len(self)
        less, not_above = self._counts(losses)
        less = np.minimum(less, size - 1)
        return less / size, np.maximum(not_above, less + 1) / size

    def recent(self, count: int) -> npt.NDArray[np.floating]:
        """The last `count` losses, or all that are known one by one, oldest first. [<=count]"""
        return self._losses[max(len(self._losses) - count, 0) :]

    def _counts(
        self, losses: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """#less and #less + #equal of each loss. int64 [n] each"""
        ascending = np.argsort(losses)  # searched in order they stay in the cache: 10x at a million
        counts = np.empty((2, len(losses)), np.int64)
        for row, side in zip(counts, _SIDES, strict=True):
            row[ascending] = np.searchsorted(self._sorted, losses[ascending], side=side)
        if self._earlier is not None:
            counts += self._earlier.counts(losses)
        return counts[0], counts[1]

    def _require_losses(self, method: str) -> None:
        if not len(self):
            raise ValueError(
                f"LossDistribution.{method}: there are no losses to rank against; append the "
                "pool's own first: LossDistribution.merged(window, own, capacity)"
            )
