"""The distribution of very many losses in 21 kB, of any number of parts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raysb.history.state import VERSION, check_state

if TYPE_CHECKING:
    from raysb.selection.distribution import Ties

SMALLEST, LARGEST = 2.0**-27, 2.0**14  # 7.5e-9 and 16,384
_PER_OCTAVE = 5  # in bits: 32 bins between x and 2 x
_SHIFT = 23 - _PER_OCTAVE  # a float32 has 23 bits of mantissa below 8 of exponent, biased by 127
_FIRST = (127 - 27) << _PER_OCTAVE
_LEVELS = ((127 + 14) << _PER_OCTAVE) - _FIRST + 1  # bins of one sign, the open one among them
NUM_BINS = 2 * _LEVELS + 1
_CHUNK = 1 << 14  # losses counted at once: what is computed on the way stays in the cache


def bins_of(losses: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
    """The bin of each loss, ascending with it.

    The leading bits of a float32 are its exponent and the start of its mantissa, so they number
    log-spaced bins without a logarithm, and without rounding at their edges.

    Args:
        losses: [n], finite.

    Returns:
        int32 [n] in [0, NUM_BINS).
    """
    with np.errstate(over="ignore"):  # too large for a float32: of the open bin
        bits = np.asarray(losses).astype(np.float32, copy=False).view(np.int32)
    level = np.clip(((bits & 0x7FFFFFFF) >> _SHIFT) - (_FIRST - 1), 0, _LEVELS)
    sign = bits >> 31  # 0, or -1 below 0, with which (level ^ sign) - sign is -level
    number: npt.NDArray[np.int32] = (level ^ sign) - sign + _LEVELS
    return number


class LossHistogram:
    """The cumulative distribution function of some losses, by counts in fixed bins.

    32 bins to each factor of 2 between 2^-27 and 2^14 (widths from 1.6 to 3.1 %), the same for
    negative values, one bin for all that is nearer to 0 and an open one at either end. The bins are
    the same everywhere, so histograms of parts add up to that of the whole, exactly, in any order.

    With m the share of the losses that is in the bin of a loss, its rank is off by at most m/2 with
    mid ranks and m with strict ones. An increasing map of all losses changes ranks by as much.

    Args:
        losses: [R], finite; more can be added.

    Raises:
        ValueError: A loss is not finite.
    """

    def __init__(self, losses: npt.NDArray[np.floating] | None = None) -> None:
        self._counts = np.zeros(NUM_BINS, np.int64)
        if losses is not None:
            self.add(losses)

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, losses: npt.NDArray[np.floating]) -> None:
        """Count losses.

        Args:
            losses: [n], finite.

        Raises:
            ValueError: One is not finite. None was counted.
        """
        self._counts += self._counted(losses, "add")

    def subtract(self, losses: npt.NDArray[np.floating]) -> None:
        """Forget losses that were added, such as those that leave a window.

        Args:
            losses: [n], finite.

        Raises:
            ValueError: One is not finite, or is none of those held. None was forgotten.
        """
        left = self._counts - self._counted(losses, "subtract")
        if (left < 0).any():
            raise ValueError(
                f"LossHistogram.subtract: {-int(left[left < 0].sum())} of {len(losses)} losses are "
                "none of those held; only what was added can be subtracted. Nothing was"
            )
        self._counts = left

    def merge(self, other: "LossHistogram") -> None:
        """Count the losses of another histogram too."""
        self._counts += other._counts

    def _counted(self, losses: npt.NDArray[np.floating], method: str) -> npt.NDArray[np.int64]:
        if not np.isfinite(losses).all():
            raise ValueError(
                f"LossHistogram.{method}: {int((~np.isfinite(losses)).sum())} of {len(losses)} "
                "losses are not finite; leave them out, as select_pool does"
            )
        counts = np.zeros(NUM_BINS, np.int64)
        for start in range(0, len(losses), _CHUNK):
            counts += np.bincount(bins_of(losses[start : start + _CHUNK]), minlength=NUM_BINS)
        return counts

    def cdf(
        self, losses: npt.NDArray[np.floating], ties: "Ties" = "mid"
    ) -> npt.NDArray[np.float64]:
        """Rank each loss among the R losses, to the exactness of a bin.

        mid:    (#in lower bins + #in the same bin / 2) / R
        strict: #in lower bins / R

        Args:
            losses: [n], finite.
            ties: "mid" or "strict". Losses of one bin count as equal.

        Returns:
            float64 [n] in [0, 1].

        Raises:
            ValueError: The histogram is empty.
        """
        size = self._size("cdf")
        less, not_above = self.counts(losses)
        return less / size if ties == "strict" else (less + not_above) / (2 * size)

    def counts(
        self, losses: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """#in lower bins, and with those in the same bin, of each loss. int64 [n] each"""
        not_above, bins = np.cumsum(self._counts), bins_of(losses)
        return (not_above - self._counts)[bins], not_above[bins]

    def copy(self) -> "LossHistogram":
        """Another one of the same losses."""
        other = LossHistogram()
        other.merge(self)
        return other

    def bin_mass(self, losses: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Share of the R losses in the bin of each loss: the bound of what `cdf` is off by.

        Args:
            losses: [n], finite.

        Returns:
            float64 [n] in [0, 1].

        Raises:
            ValueError: The histogram is empty.
        """
        return (self._counts / self._size("bin_mass"))[bins_of(losses)]

    def _size(self, method: str) -> int:
        if not len(self):
            raise ValueError(
                f"LossHistogram.{method}: there are no losses to rank against; add the pool's own "
                "first"
            )
        return len(self)

    def state_dict(self) -> dict[str, Any]:
        """The counts. int64 [NUM_BINS]"""
        return {"version": VERSION, "counts": self._counts.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace all counts by saved ones.

        Raises:
            ValueError: The state is not one of a histogram with these bins. Nothing was loaded.
        """
        check_state("LossHistogram", state, {"counts"})
        counts = np.array(state["counts"], np.int64)
        if counts.shape != (NUM_BINS,) or (counts < 0).any():
            raise ValueError(
                f"LossHistogram.load_state_dict: counts of shape {counts.shape} with a smallest of "
                f"{counts.min(initial=0)}; {NUM_BINS} of at least 0 are needed. Nothing was loaded"
            )
        self._counts = counts
