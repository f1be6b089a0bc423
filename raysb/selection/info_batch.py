"""InfoBatch: of the rows with a low recorded loss some are left out, the others weigh more."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysb.history.records import LossRecords
from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.preselection import Outlook, Preselection

_ROUNDING = 1e-9  # of a product such as 10 * .1


@dataclass(kw_only=True)
class InfoBatch(Selector):
    """Leaves out a random share of the rows whose last recorded loss is below the mean.

        P = 1 - r, weight = 1 / (1 - r)    where loss < mean of the recorded losses
        P = 1,     weight = 1              elsewhere

    Losses are those of the training steps, so nothing is scored, and rows that are left out are
    neither read nor decoded; they keep the loss they had and are as likely to return as before.
    Each row is drawn by itself, so the weights add up to N on average, and the sum of the weighted
    gradients is without bias that of all rows. A training step divides by its rows, not by their
    weights: with fewer steps to an epoch, each is larger by N over the rows kept.

    All rows are kept, with weight 1, in the first epoch and in the last ones; at any time those
    without a recorded loss, and those whose losses were never finite.

    Args:
        prune_ratio: r, the share of rows below the mean that is left out, at least 0 and below 1.
        anneal: Share of the epochs, at the end, in which no row is left out, in [0, 1]; part of an
            epoch counts as a whole one.

    Raises:
        ValueError: An argument is out of its range.

    References:
        Z. Qin, K. Wang, Z. Zheng, J. Gu, X. Peng, Z. Xu, D. Zhou, L. Shang, B. Sun, X. Xie, Y. You:
        InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning, 2023.
        https://arxiv.org/abs/2303.04947 (`anneal` is 1 - delta)
    """

    needs_scores: ClassVar[bool] = False
    preselects: ClassVar[bool] = True
    records_backward: ClassVar[bool] = True

    prune_ratio: float = 0.5
    anneal: float = 0.125

    def __post_init__(self) -> None:
        self._check_number(
            "prune_ratio", lambda r: 0 <= r < 1, "a number of at least 0 and below 1"
        )
        self._check_number("anneal", lambda share: 0 <= share <= 1, "a number in [0, 1]")

    def outlook(self, known: LossRecords, epoch: int, epochs: int) -> Outlook | None:
        """Find the ids below the mean; `None` in epochs in which every row is kept."""
        annealed = math.ceil(self.anneal * epochs - _ROUNDING)
        if epoch == 0 or epoch >= epochs - annealed:
            return None
        recorded = np.isfinite(known.loss)
        if not recorded.any():
            return None
        mean = known.loss[recorded].mean(dtype=np.float64)
        low = recorded & (known.loss < mean)  # NaN is below nothing
        return Outlook(known.id[low], {})

    def preselect(self, ids: Ids, outlook: Outlook | None, draws: Draws) -> Preselection:
        """Leave out rows among those of the outlook; the others are trained, none is scored."""
        low = np.zeros(len(ids), np.bool_) if outlook is None else outlook.find(ids)[1]
        kept = np.where(low, 1 - self.prune_ratio, 1.0)
        drawn = self._draw(ids, kept, draws)
        weight = (1 / kept[drawn.indices]).astype(np.float32)
        return Preselection(np.empty(0, np.int64), drawn._replace(weight=weight))

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose all rows: those to leave out never get here."""
        return self._selected(ids, np.arange(len(ids)), np.ones(len(ids)))
