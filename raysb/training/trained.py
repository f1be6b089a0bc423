"""Which rows of the pools under way are trained: what a checkpoint need not bring again."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from raysb.schema import ID, POOL, Batch, Ids

Step: TypeAlias = tuple[Ids, Ids]  # pools and ids of the rows of one step, in their order


class TrainedRows:
    """The rows that one worker has trained, step by step.

    Attributes:
        steps: Those with rows of pools that are not behind all workers.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def note(self, rows: Batch, oldest: int) -> None:
        """Add the rows of a step; forget steps that lie before the oldest pool under way.

        Args:
            rows: With `id` and `pool`, pools ascending.
            oldest: All pools before this one are trained.
        """
        ids, pools = (rows[name].astype(np.int64, copy=False) for name in (ID, POOL))
        if len(ids):
            self.steps.append((pools.copy(), ids.copy()))  # of a block that may go
        behind = 0
        while behind < len(self.steps) and self.steps[behind][0][-1] < oldest:
            behind += 1
        del self.steps[:behind]


def by_pool(workers: Sequence[Sequence[Step]], oldest: int) -> dict[int, Ids]:
    """Ids of the rows that some workers have trained, by pool, from the oldest pool on."""
    steps = [step for steps in workers for step in steps]
    if not steps:
        return {}
    pools, ids = (np.concatenate(part) for part in zip(*steps, strict=True))
    order = np.argsort(pools, kind="stable")
    found, starts = np.unique(pools[order], return_index=True)
    parts = np.split(ids[order], starts[1:])
    return {int(pool): part for pool, part in zip(found, parts, strict=True) if pool >= oldest}
