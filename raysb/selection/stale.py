"""Stale-SB: losses are refreshed every n-th epoch; rows are drawn before they are read between."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raysb.history.records import LossRecords
from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws, hash_ids
from raysb.selection.distribution import LossDistribution
from raysb.selection.preselection import Outlook, Preselection, all_scored
from raysb.selection.selective_backprop import SelectiveBackprop
from raysb.selection.target import solve_beta


@dataclass(kw_only=True)
class StaleSelectiveBackprop(SelectiveBackprop):
    """Selective-Backprop that scores each row in one of n epochs only.

    In an epoch that refreshes, all rows are scored and selected as `SelectiveBackprop` does. In the
    n - 1 epochs after it rows are drawn at the source, from their last recorded losses: what is not
    drawn is neither read (of parquet: nothing but its row group) nor decoded, and nothing is scored
    but ids without a finite loss.

        P(l) = max(s, rank(l) ^ beta),  rank among the scored losses of all ids of like age

    Losses are recorded while the model learns: in one epoch those of its beginning are larger than
    those of its end, and in one distribution they would rank higher for their date. So ids are
    ordered by the step of the weights that scored them and cut into windows of at least R, and a
    loss is ranked in the window of its own id. A training step's loss becomes the last loss of its
    id, so that a row which is learned falls behind, and enters no distribution.

    Args:
        refresh_every: n, at least 1; 1 is Selective-Backprop.
        staggered: Refresh another n-th of the ids in each epoch, rather than all in each n-th one:
            the same work in every epoch, and no loss older than n epochs either way.

    Other arguments and errors as `SelectiveBackprop`; its warm-up epochs score every row, and the
    count of n begins with the last of them.

    References:
        A. Jiang et al., 2019, section 3.3. https://arxiv.org/abs/1910.00762
    """

    preselects: ClassVar[bool] = True
    trains_unscored: ClassVar[bool] = True
    records_backward: ClassVar[bool] = True

    refresh_every: int = 3
    staggered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_whole("refresh_every", 1)
        self._check_flag("staggered")

    def outlook(self, known: LossRecords, epoch: int, epochs: int) -> Outlook | None:
        """Turn the last loss of every id into its chance; `None` where all rows are scored."""
        if self._scores_all(epoch):
            return None
        turn = np.empty(len(known.id), np.int64)
        turn[np.argsort(hash_ids(known.id))] = np.arange(len(known.id)) % self.refresh_every
        usable = np.flatnonzero(np.isfinite(known.loss) & np.isfinite(known.scored_loss))
        step, loss = known.weights_step[usable], known.loss[usable]
        ranks = self.ranks(step, known.scored_loss[usable], loss)
        columns: dict[str, npt.NDArray[Any]] = {
            "probability": self._probability(ranks).astype(np.float32),
            "loss": loss,
            "weights_step": step,
            "turn": turn[usable],
        }
        return Outlook(known.id[usable], columns)

    def _scores_all(self, epoch: int) -> bool:
        since_first = epoch - max(self.warmup_epochs - 1, 0)
        return since_first <= 0 or (not self.staggered and since_first % self.refresh_every == 0)

    def ranks(
        self, step: npt.NDArray[np.integer], scored: Floats, last: Floats
    ) -> npt.NDArray[np.float64]:
        """Rank of each id's last loss among the scored losses of like age.

        Args:
            step: int [m], of the weights that scored each id.
            scored: float32 [m], the losses that they gave.
            last: float32 [m], the last losses, of a training step perhaps.

        Returns:
            float64 [m] in [0, 1].
        """
        ranks = np.empty(len(step), np.float64)
        order = np.argsort(step, kind="stable")
        for window in np.array_split(order, max(len(order) // self.history, 1)):
            if len(window):
                ranks[window] = LossDistribution(scored[window]).cdf(last[window], self.ties)
        return ranks

    def _probability(self, ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        beta = self.beta
        if self.target_fraction is not None and len(ranks):
            beta = solve_beta(ranks, self.min_probability, self.target_fraction)
        return np.maximum(self.min_probability, ranks**beta)

    def preselect(self, ids: Ids, outlook: Outlook | None, draws: Draws) -> Preselection:
        """Draw rows by their chance; ids whose turn it is, or without a loss, are scored."""
        if outlook is None:
            return all_scored(len(ids))
        entries, known = outlook.find(ids)
        due = ~known
        if self.staggered and len(outlook.ids):
            due |= outlook.columns["turn"][entries] == draws.epoch % self.refresh_every
        waits = np.flatnonzero(~due)
        probability = outlook.columns["probability"][entries[waits]].astype(np.float64)
        drawn = self._draw(ids[waits], probability, draws)
        rows = waits[drawn.indices]
        return Preselection(
            np.flatnonzero(due),
            Selection(rows, drawn.probability, drawn.weight),
            outlook.columns["loss"][entries[rows]],
            outlook.columns["weights_step"][entries[rows]].astype(np.int64),
        )
