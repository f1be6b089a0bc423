"""Which rows make up which pool: arithmetic only, so that any process can seek to any pool.

N rows of the data set, n rows of a pool.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Pools = TypeVar("Pools", int, npt.NDArray[np.int64])


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """Numbers the pools of a run, (epoch, block) in order, from 0.

    A pool never straddles two epochs, so each epoch has ceil(N / n) pools and its last one holds
    what remains. Nothing is stored per pool.

    Args:
        num_rows: Rows in one epoch, N, at least 1.
        pool_rows: Rows of a pool, n, at least 1.
        epochs: Passes over the rows, at least 1.

    Raises:
        ValueError: A number is below 1.
    """

    num_rows: int
    pool_rows: int
    epochs: int

    def __post_init__(self) -> None:
        for name in ("num_rows", "pool_rows", "epochs"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(
                    f"PoolPlan({name}={value}): at least 1 is needed, else nothing would be read."
                )

    @property
    def pools_per_epoch(self) -> int:
        """ceil(N / n)."""
        return -(-self.num_rows // self.pool_rows)

    @property
    def num_pools(self) -> int:
        """Pools of the whole run."""
        return self.epochs * self.pools_per_epoch

    def locate(self, pool: int) -> tuple[int, int, int]:
        """Epoch and rows [start, stop) of its order that make up the pool.

        Raises:
            IndexError: The run has no such pool.
        """
        if not 0 <= pool < self.num_pools:
            raise IndexError(f"pool {pool}: the run has pools 0 to {self.num_pools - 1}.")
        epoch, block = divmod(pool, self.pools_per_epoch)
        start = block * self.pool_rows
        return epoch, start, min(start + self.pool_rows, self.num_rows)

    def epoch_of(self, pool: Pools) -> Pools:
        """Epoch of a pool, or of each pool of an array."""
        return pool // self.pools_per_epoch

    def rows_before(self, pool: Pools) -> Pools:
        """Rows of all earlier pools, for a pool in [0, num_pools] or each of an array."""
        epoch = pool // self.pools_per_epoch
        return epoch * self.num_rows + (pool - epoch * self.pools_per_epoch) * self.pool_rows
