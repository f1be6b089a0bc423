"""The control: a fixed share of every pool, whatever its losses; nothing is scored."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.preselection import Outlook, Preselection
from raysb.selection.top_k import rows_kept, top_k


@dataclass(kw_only=True)
class RandomSubset(Selector):
    """Selects rows of a pool by lot, others in each epoch.

        k = max(round(f n), 1) of n rows, without replacement, each with probability k / n

    What a selector by loss must beat at an equal kept fraction.

    Args:
        fraction: f, the share of a pool that is kept, above 0 and at most 1.

    Raises:
        ValueError: `fraction` is out of its range.

    References:
        P. Okanovic, R. Waleffe, V. Mageirakos, K. Nikolakakis, A. Karbasi, D. Kalogerias,
        N. M. Guerel, T. Rekatsinas: Repeated Random Sampling for Minimizing the Time-to-Accuracy
        of Learning, 2023. https://arxiv.org/abs/2305.18424
    """

    needs_scores: ClassVar[bool] = False
    preselects: ClassVar[bool] = True

    fraction: float = 0.5

    def __post_init__(self) -> None:
        self._check_share("fraction")

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose k rows; nothing but the ids is looked at."""
        alike = np.zeros(len(ids))
        return self._selected(ids, *top_k(alike, rows_kept(self.fraction, len(ids)), ids, draws))

    def preselect(self, ids: Ids, outlook: Outlook | None, draws: Draws) -> Preselection:
        """The same choice, before the rows are read."""
        return Preselection(np.empty(0, np.int64), self.select(ids, None, None, draws))
