"""A fixed share of every pool, by lot, the likelier the higher the loss."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.schedule import check_schedule, selects_in
from raysb.selection.successive import inclusion, successive_sample
from raysb.selection.top_k import rows_kept

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(kw_only=True)
class KeepFraction(Selector):
    """Draws a fixed share of a pool without replacement, with weights by rank.

        w_j = ((j + 1/2) / n) ^ (1/f - 1),   k = max(round(f n), 1) of n rows

    j counts the losses of the pool below, 0 for the lowest; level losses are ranked by lot. The k
    rows are drawn one after the other, each with probability by weight among those still there, so
    the choice is softer than that of `SelectiveBackprop` at the same share: of 128 rows at f = .5
    the highest loss has chance .794, the lower half of the rows 31 % of the places. Nothing is
    compared with other pools, and losses are not reweighted. `probability` is that of `inclusion`,
    within about .01.

    The source counts int(f n) rows, which may be none; draws from numpy's global numbers; and
    schedules by batches: by default within the run from .5 to .9, every second batch trained whole.

    Args:
        fraction: f, the share of a pool that is kept, above 0 and at most 1.
        start_epoch: First epoch in which rows are selected; before it every row is trained.
        end_epoch: From this epoch on every row is trained; none: selection goes on to the end.
        whole_every: m, every m-th epoch in between is trained whole, at least 2; 0: none is.

    Raises:
        ValueError: An argument is out of its range.

    References:
        The rule is that of `SelectiveBackprop` in MosaicML Composer, after A. Jiang et al. 2019.
        https://github.com/mosaicml/composer
    """

    needs_scores: ClassVar[bool] = True
    history = 1  # the run's window of losses holds at least one; none is looked at

    fraction: float = 0.5
    start_epoch: int = 0
    end_epoch: int | None = None
    whole_every: int = 0

    def __post_init__(self) -> None:
        self._check_share("fraction")
        check_schedule(type(self).__name__, self.start_epoch, self.end_epoch, self.whole_every)

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the k rows; the distribution is not looked at."""
        losses, size = self._finite(ids, scores), len(ids)
        if not size or not self.selects_in(draws.epoch):
            return self._selected(ids, np.arange(size), np.ones(size))
        order = _ascending(losses, draws.uniform(ids, "tie"))
        log_weights = self.log_weights(size)
        count = rows_kept(self.fraction, size)
        drawn = successive_sample(log_weights, count, draws.uniform(ids[order], "keep"))
        chance = _level_out(inclusion(log_weights, count), losses[order])[drawn]
        rows = order[drawn]
        place = np.argsort(rows)
        return self._selected(ids, rows[place], np.maximum(chance[place], _TINY))

    def selects_in(self, epoch: int) -> bool:
        """Whether rows are selected in an epoch, from 0; if not, every row is trained."""
        return selects_in(epoch, self.start_epoch, self.end_epoch, self.whole_every)

    def log_weights(self, size: int) -> npt.NDArray[np.float64]:
        """log(w) of the rows of a pool, from the lowest loss to the highest. float64 [size]"""
        return (1 / self.fraction - 1) * np.log((np.arange(size) + 0.5) / size)


def _ascending(losses: Floats, lot: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows by loss, level ones by lot."""
    order = np.argsort(losses)
    level = losses[order[1:]] == losses[order[:-1]]
    if not level.any():
        return order
    step = np.append(0, np.cumsum(~level))  # one sort of sums is faster than one by two columns
    return order[np.argsort(step + lot[order])]


def _level_out(chance: npt.NDArray[np.float64], ascending: Floats) -> npt.NDArray[np.float64]:
    """Rows of level losses have the mean chance of the ranks that they draw lots for."""
    first = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    if len(first) == len(chance):
        return chance
    sizes = np.diff(np.append(first, len(chance)))
    return np.repeat(np.add.reduceat(chance, first) / sizes, sizes)
