"""A fixed share of every pool: its highest losses, or its lowest."""

from dataclasses import dataclass
from typing import ClassVar

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution
from raysb.selection.top_k import rows_kept, top_k


@dataclass(kw_only=True)
class HighestK(Selector):
    """Selects the rows of a pool with the highest losses.

        k = max(round(f n), 1) of n rows

    Exactly k rows are kept, in the pool's own ranks: nothing is compared with other pools. Rows
    level with the k-th are drawn from; `probability` is below 1 for those alone.

    Args:
        fraction: f, the share of a pool that is kept, above 0 and at most 1.

    Raises:
        ValueError: An argument is out of its range.

    References:
        K. Kawaguchi, H. Lu: Ordered SGD: A New Stochastic Optimization Framework for Empirical
        Risk Minimization, 2020. https://arxiv.org/abs/1907.04371 (there of a minibatch, see
        `OrderedSGD`)
    """

    needs_scores: ClassVar[bool] = True
    history = 1  # the run's window of losses holds at least one; none is looked at
    _sign: ClassVar[int] = 1

    fraction: float = 0.5

    def __post_init__(self) -> None:
        self._check_share("fraction")

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the k rows; the distribution is not looked at."""
        values = self._sign * self._finite(ids, scores)
        count = rows_kept(self.fraction, len(ids))
        return self._selected(ids, *top_k(values, count, ids, draws))


@dataclass(kw_only=True)
class LowestK(HighestK):
    """Selects the rows of a pool with the lowest losses.

        k = max(round(f n), 1) of n rows

    The small-loss rule for wrong labels: these have high losses while the net does not know them
    by heart yet, so the lowest losses are mostly of rows with right labels. On clean data it is
    the rows that teach least.

    Args:
        fraction: f, the share of a pool that is kept, above 0 and at most 1; 1 minus the share of
            wrong labels, or somewhat less.

    Raises:
        ValueError: An argument is out of its range.

    References:
        B. Han, Q. Yao, X. Yu, G. Niu, M. Xu, W. Hu, I. Tsang, M. Sugiyama: Co-teaching: Robust
        Training of Deep Neural Networks with Extremely Noisy Labels, 2018.
        https://arxiv.org/abs/1804.06872 (the rule; there each of two nets chooses for the other)
    """

    _sign: ClassVar[int] = -1

    fraction: float = 0.6
