"""The q highest losses of each random minibatch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.top_k import rows_kept

# training accuracy from which on half as many rows are kept, and again half as many, and so on
HALVED_FROM = (0.8, 0.9, 0.95, 0.995)


@dataclass(kw_only=True)
class OrderedSGD(Selector):
    """Selects the highest losses of each minibatch that a pool is divided into at random.

        q = max(round(f s), 1) of each minibatch of s rows

    Softer than `HighestK`: the chance of a row falls with its rank j in the pool of n as
    P(j) = P(fewer than q of the s - 1 others in its minibatch are above it), hypergeometric, and is
    1 for the q highest. A pool that s does not divide has minibatches of two sizes, one apart.

    With `fraction="auto"` q falls as training accuracy rises, as in the source:

        q = max(floor(s / 2^h), 1),    h = how many of .8, .9, .95, .995 accuracy has reached

    Accuracy is the share of rows predicted rightly when they were scored in the last epoch, before
    the pool's own, that is over; where there is none yet, q = s. In lockstep that is the epoch
    before; where pools are scored ahead, the first ones of an epoch may look back at the one before
    that. Where accuracy falls, q rises again. Scores of small pictures (`scoring.image_scale`) have
    an accuracy of their own, which may stay below .8. Without a right answer there is no accuracy:
    a stream of such a task refuses it.

    Args:
        fraction: f, the share of a minibatch that is kept, above 0 and at most 1; `auto` is 1,
            halved when training accuracy reaches .8, .9, .95 and .995.
        minibatch: s, its rows, at least 1.

    Raises:
        ValueError: An argument is out of its range.

    References:
        K. Kawaguchi, H. Lu: Ordered SGD: A New Stochastic Optimization Framework for Empirical
        Risk Minimization, 2020. https://arxiv.org/abs/1907.04371
    """

    needs_scores: ClassVar[bool] = True
    history = 1  # the run's window of losses holds at least one; none is looked at

    fraction: float | Literal["auto"] = 0.5
    minibatch: int = 64

    def __post_init__(self) -> None:
        if not isinstance(self.fraction, str) or self.fraction != "auto":
            allowed = "a number above 0 and at most 1, or 'auto'"
            self._check_number("fraction", lambda share: 0 < share <= 1, allowed)
        self._check_whole("minibatch", 1)

    @property
    def needs_accuracy(self) -> bool:
        """Whether q follows training accuracy."""
        return isinstance(self.fraction, str)

    def q(self, size: int, accuracy: float | None = None) -> int:
        """Rows kept of a minibatch.

        Args:
            size: Its rows.
            accuracy: Of training, from 0 to 1; none: not known. A number as `fraction` ignores it.
        """
        if isinstance(self.fraction, str):
            return scheduled_rows(size, accuracy)
        return rows_kept(self.fraction, size)

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the q rows of each minibatch; of the distribution only `accuracy` may count."""
        losses = self._finite(ids, scores)
        accuracy = self._given(distribution).accuracy if self.needs_accuracy else None
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
        kept = np.array([self.q(size, accuracy) for size in (depth - 1, depth)])
        chosen = np.arange(depth) < kept[sizes - depth + 1][:, None]
        rows = np.sort(np.take_along_axis(members, by_loss, axis=1)[chosen])
        return self._selected(ids, rows, self.probability(losses, accuracy)[rows])

    def probability(self, losses: Floats, accuracy: float | None = None) -> npt.NDArray[np.float64]:
        """P of each row of a pool; equal losses share the mean of their ranks.

        Args:
            losses: [n], finite.
            accuracy: See `q`.

        Returns:
            float64 [n], above 0 and at most 1.
        """
        size = len(losses)
        number = max(round(size / self.minibatch), 1)
        small, larger = divmod(size, number)  # rows of a minibatch, minibatches with one more
        by_rank = np.zeros(size)
        for rows, count in ((small, number - larger), (small + 1, larger)):
            if count:
                share = count * rows / size
                by_rank += share * inclusion(size, rows, self.q(rows, accuracy))
        order = np.argsort(losses)[::-1]
        starts = np.flatnonzero(np.diff(losses[order], prepend=np.inf))  # of groups of equal losses
        sizes = np.diff(starts, append=size)
        mean = np.add.reduceat(by_rank, starts) / sizes
        chance = np.empty(size)  # rounding may leave it below 0
        chance[order] = np.repeat(np.clip(mean, np.finfo(np.float32).tiny, 1), sizes)
        return chance


def scheduled_rows(size: int, accuracy: float | None) -> int:
    """Rows kept: s, from accuracy .8 on s / 2, from .9 s / 4, from .95 s / 8, from .995 s / 16.

    Args:
        size: s.
        accuracy: From 0 to 1; none: not known, which is q = s.

    Returns:
        q, rounded down, at least 1; 0 of no rows.
    """
    halvings = 0 if accuracy is None else sum(accuracy >= reached for reached in HALVED_FROM)
    return max(size // 2**halvings, 1) if size else 0


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
