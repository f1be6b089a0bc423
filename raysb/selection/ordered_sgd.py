"""The q highest losses of each random minibatch."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.top_k import rows_kept


@dataclass(kw_only=True)
class OrderedSGD(Selector):
    """Selects the highest losses of each minibatch that a pool is divided into at random.

        q = max(round(f s), 1) of each minibatch of s rows

    Softer than `HighestK`: the chance of a row falls with its rank j in the pool of n as
    P(j) = P(fewer than q of the s - 1 others in its minibatch are above it), hypergeometric, and is
    1 for the q highest. A pool that s does not divide has minibatches of two sizes, one apart.
    The source lowers q as training accuracy rises; here f is fixed.

    Args:
        fraction: f, the share of a minibatch that is kept, above 0 and at most 1.
        minibatch: s, its rows, at least 1.

    Raises:
        ValueError: An argument is out of its range.

    References:
        K. Kawaguchi, H. Lu: Ordered SGD: A New Stochastic Optimization Framework for Empirical
        Risk Minimization, 2020. https://arxiv.org/abs/1907.04371
    """

    needs_scores: ClassVar[bool] = True
    history = 1  # the run's window of losses holds at least one; none is looked at

    fraction: float = 0.5
    minibatch: int = 64

    def __post_init__(self) -> None:
        self._check_share("fraction")
        self._check_whole("minibatch", 1)

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the q rows of each minibatch; the distribution is not looked at."""
        losses = self._finite(ids, scores)
        if not len(ids):
            return self._selected(ids, np.zeros(0, np.int64), np.zeros(0))
        order = np.argsort(draws.uniform(ids, "minibatch"))
        number = max(round(len(ids) / self.minibatch), 1)
        depth = -(-len(ids) // number)
        # minibatch g is the rows g, g + number, g + 2 number ... of the random order
        sizes = np.full(number, depth) - (np.arange(number) >= len(ids) - number * (depth - 1))
        filled = np.concatenate([order, np.full(number * depth - len(ids), -1)])
        members = filled.reshape(depth, number).T
        negated = np.where(members < 0, np.inf, -losses[members].astype(np.float64))
        by_loss = np.argsort(negated, axis=1, kind="stable")  # level ones in their random order
        kept = np.array([rows_kept(self.fraction, size) for size in (depth - 1, depth)])
        chosen = np.arange(depth) < kept[sizes - depth + 1][:, None]
        rows = np.sort(np.take_along_axis(members, by_loss, axis=1)[chosen])
        return self._selected(ids, rows, self.probability(losses)[rows])

    def probability(self, losses: Floats) -> npt.NDArray[np.float64]:
        """P of each row of a pool; equal losses share the mean of their ranks. float64 [n]"""
        size = len(losses)
        number = max(round(size / self.minibatch), 1)
        small, larger = divmod(size, number)  # rows of a minibatch, minibatches with one more
        by_rank = np.zeros(size)
        for rows, count in ((small, number - larger), (small + 1, larger)):
            if count:
                share = count * rows / size
                by_rank += share * inclusion(size, rows, rows_kept(self.fraction, rows))
        order = np.argsort(losses)[::-1]
        starts = np.flatnonzero(np.diff(losses[order], prepend=np.inf))  # of groups of equal losses
        sizes = np.diff(starts, append=size)
        mean = np.add.reduceat(by_rank, starts) / sizes
        chance = np.empty(size)  # rounding may leave it below 0
        chance[order] = np.repeat(np.clip(mean, np.finfo(np.float32).tiny, 1), sizes)
        return chance


def inclusion(n: int, s: int, q: int) -> npt.NDArray[np.float64]:
    """Chance that a row of a random minibatch is among its q highest, by rank in the pool.

    P(j) - P(j + 1) = C(j, q-1) C(n-2-j, s-1-q) / C(n-1, s-1): row j is in the minibatch of another
    row just below it, together with exactly q - 1 above.

    Args:
        n: Rows of the pool.
        s: Rows of the minibatch, at most n.
        q: Rows kept of it, at least 1.

    Returns:
        float64 [n], from the highest loss on.
    """
    if q >= s:
        return np.ones(n)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])

    def log_choose(above: npt.NDArray[np.int64], below: int) -> npt.NDArray[np.float64]:
        value: npt.NDArray[np.float64] = (
            log_factorial[above] - log_factorial[below] - log_factorial[above - below]
        )
        return value

    rank = np.arange(q - 1, n - s + q)  # where both binomials are above 0
    pairs = log_choose(rank, q - 1) + log_choose(n - 2 - rank, s - 1 - q)
    falls = np.zeros(n)
    falls[rank + 1] = np.exp(pairs - log_choose(np.array([n - 1]), s - 1))
    return 1 - np.cumsum(falls)
