"""The baseline: every row, every epoch."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution


@dataclass(kw_only=True)
class Uniform(Selector):
    """Selects every row with probability and weight 1; nothing is scored."""

    needs_scores: ClassVar[bool] = False

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose all rows; nothing but the ids is looked at."""
        self._count(len(ids), len(ids))
        ones = np.ones(len(ids), np.float32)
        return Selection(np.arange(len(ids)), ones, ones)
