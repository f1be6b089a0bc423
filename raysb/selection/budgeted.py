"""The same number of rows in every epoch, likelier the higher their recorded losses."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.history.records import LossRecords
from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.preselection import Outlook, Preselection
from raysb.selection.reservoir import WeightedReservoir


@dataclass(kw_only=True)
class BudgetedSelection(Selector):
    """Trains exactly k rows of each epoch after the first, drawn by their last recorded loss.

        weight_i = (1 - u) l_i / mean(l) + u

    k rows of the whole epoch are drawn without replacement, one after the other with probability
    by weight (`WeightedReservoir`), before any of them is read. Losses are those of the training
    steps, so nothing is scored; rows that are left out keep the loss they had. What is drawn
    depends on the recorded losses, seed and epoch alone: every reader finds the same k rows.

    The first epoch trains every row, as nothing else would give losses. Later an id without a
    finite loss has the mean weight 1; an id that was never recorded is trained besides the k.
    Losses are not reweighted: `probability` is there for who wants to (a sum over the epoch's rows
    of x / probability estimates that over all rows without bias).

    Args:
        rows_per_epoch: k, at least 1; where the data has no more rows, all are trained.
        uniform: u, the share of the weight that all rows have alike, above 0 and at most 1, so that
            rows of loss 0 return too; 1 ignores the losses. Negative losses count as 0.

    Raises:
        ValueError: An argument is out of its range.

    References:
        P. Efraimidis, P. Spirakis: Weighted random sampling with a reservoir, Information
        Processing Letters 97, 2006. https://doi.org/10.1016/j.ipl.2005.11.003
    """

    needs_scores: ClassVar[bool] = False
    preselects: ClassVar[bool] = True
    records_backward: ClassVar[bool] = True

    rows_per_epoch: int = 10_000
    uniform: float = 0.1

    def __post_init__(self) -> None:
        self._check_whole("rows_per_epoch", 1)
        self._check_share("uniform")
        # the chances of an epoch: found once, not with each pool
        self._held: tuple[Outlook, Draws, npt.NDArray[np.float32]] | None = None

    def outlook(self, known: LossRecords, epoch: int, epochs: int) -> Outlook | None:
        """Turn the last loss of every id into its weight; `None` in the first epoch."""
        if epoch == 0 or not len(known.id):
            return None
        return Outlook(known.id, {"weight": self.weights(known.loss)})

    def weights(self, losses: Floats) -> npt.NDArray[np.float64]:
        """The weight of each loss among them, 1 for one that is not finite. float64 [m]"""
        finite = np.isfinite(losses)
        values = np.maximum(losses[finite], 0).astype(np.float64)
        weights = np.ones(len(losses))
        if values.any():
            weights[finite] = (1 - self.uniform) * (values / values.mean()) + self.uniform
        return weights

    def preselect(self, ids: Ids, outlook: Outlook | None, draws: Draws) -> Preselection:
        """Train the pool's share of the k rows, and ids never recorded; none is scored."""
        chance = np.ones(len(ids))
        if outlook is not None:
            entries, known = outlook.find(ids)
            chance[known] = self._chances(outlook, draws)[entries[known]]
        rows = np.flatnonzero(chance)
        return Preselection(np.empty(0, np.int64), self._selected(ids, rows, chance[rows]))

    def _chances(self, outlook: Outlook, draws: Draws) -> npt.NDArray[np.float32]:
        """The chance of the ids that are drawn, 0 for the others; the same for a whole epoch."""
        if self._held is not None and self._held[0] is outlook and self._held[1] == draws:
            return self._held[2]
        reservoir = WeightedReservoir(self.rows_per_epoch, draws)
        reservoir.update(outlook.ids, outlook.columns["weight"])
        sample = reservoir.sample()
        chances = np.zeros(len(outlook.ids), np.float32)
        chances[np.searchsorted(outlook.ids, sample.ids)] = sample.probability
        self._held = (outlook, draws, chances)
        return chances

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose all rows: those to leave out never get here."""
        return self._selected(ids, np.arange(len(ids)), np.ones(len(ids)))
