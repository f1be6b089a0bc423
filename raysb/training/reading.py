"""How pools become rows; numpy only, so that readers start fast."""

from dataclasses import dataclass

import numpy as np

from raysb.schema import PROBABILITY, WEIGHT, Batch, Source, num_rows
from raysb.source.augment import Augmentation, none
from raysb.source.plan import PoolPlan
from raysb.source.reader import read_pool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What readers do.

    Args:
        source: Rows by number.
        augmentation: Applied to images before scoring.
        inputs: Columns that the model sees, and to whose images it applies.
        num_readers: Processes that read and decode.
        seed: Of order and augmentation.
    """

    source: Source
    augmentation: Augmentation = none
    inputs: tuple[str, ...] = ()
    num_readers: int = 2
    seed: int = 0

    def read(self, plan: PoolPlan, pool: int) -> Batch:
        """A pool's rows, decoded and augmented."""
        return read_pool(self.source, plan, pool, self.augmentation, self.seed, inputs=self.inputs)


def with_weights(batch: Batch) -> Batch:
    """Rows that nobody selected among: all are trained, each with weight 1."""
    ones = np.ones(num_rows(batch), np.float32)
    return {**batch, PROBABILITY: ones, WEIGHT: ones}
