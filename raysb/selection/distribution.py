"""The empirical distribution of recent losses, and the rank of a loss in it."""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats

Ties: TypeAlias = Literal["mid", "strict"]
TIES: tuple[Ties, ...] = ("mid", "strict")


class LossDistribution:
    """The cumulative distribution function of some losses.

    Args:
        losses: [R], in any order, all finite.

    Raises:
        ValueError: A loss is not finite: it would shift the ranks of all others.
    """

    def __init__(self, losses: npt.NDArray[np.floating]) -> None:
        if not np.isfinite(losses).all():
            raise ValueError(
                f"LossDistribution: {int((~np.isfinite(losses)).sum())} of {len(losses)} losses "
                "are not finite; leave them out, as select_pool does"
            )
        self._sorted = np.sort(losses)

    @classmethod
    def merged(cls, window: Floats, own: Floats, capacity: int) -> "LossDistribution":
        """The window after the whole pool was appended: what a deque of `capacity` would hold.

        Args:
            window: float32 [<=R], the last losses before the pool, oldest first.
            own: float32 [n], the finite losses of the pool itself.
            capacity: R, at least 1.
        """
        return cls(np.concatenate([window, own])[-capacity:])

    def __len__(self) -> int:
        return len(self._sorted)

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
        if not len(self._sorted):
            raise ValueError(
                "LossDistribution.cdf: there are no losses to rank against; append the pool's own "
                "first: LossDistribution.merged(window, own, capacity)"
            )
        less = np.searchsorted(self._sorted, losses, side="left")
        if ties == "strict":
            return less / len(self._sorted)
        not_above = np.searchsorted(self._sorted, losses, side="right")
        return (less + not_above) / (2 * len(self._sorted))
