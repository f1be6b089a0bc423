"""Selective-Backprop: the larger the loss among recent losses, the likelier a backward pass."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import TIES, LossDistribution, Ties
from raysb.selection.target import recent_enough, solve_beta

Cdf = Literal["exact", "histogram"]


@dataclass(kw_only=True)
class SelectiveBackprop(Selector):
    """Selects a row with a probability that grows with the rank of its loss.

        P(l) = max(s, CDF_R(l) ^ beta)

    CDF_R is the distribution of the last R losses, those of the row's own pool among them. Rows
    are drawn independently, and their losses are not reweighted. For continuous losses the
    expected fraction is that of `expected_fraction`: 1/2, 1/3, 1/4 for beta 1, 2, 3.

    Args:
        beta: Exponent, above 0; 1 keeps half of the rows, larger values keep fewer.
        min_probability: s, the least chance of any row, in [0, 1].
        history: R, losses in the distribution, at least 1. The 95 % error of an empirical
            distribution is .042 at 1,024 and .019 at 5,000 (Dvoretzky, Kiefer, Wolfowitz).
            It should be at least the rows of a pool: of a larger pool the last R rows alone make
            the distribution, so that what is picked depends on their order, and the fraction kept
            is not `expected_fraction`.
        warmup_epochs: Epochs at the start in which every row is selected while the history fills.
        ties: "mid" ranks a loss by (#less + #equal / 2) / R; "strict" by #less / R as the original
            code, with which data whose losses are all equal is never selected again.
        target_fraction: Share of rows to keep whatever the losses do; none keeps what beta gives.
            Beta is then not used but solved for with each pool, so that the last losses of the
            distribution, ranked in all of it, are kept at this share. When losses fall, new ones
            rank low among the old, and a fixed beta keeps ever fewer.
        cdf: "exact" ranks among the R losses themselves; "histogram" among their counts in
            log-spaced bins, with ranks off by at most half the share of a bin (`LossHistogram`).
            Scorers are then sent 21 kB whatever R is, and rank in a time that does not grow with
            it; the window is of whole pools, the fewest that hold R losses.

    Raises:
        ValueError: An argument is out of its range.

    References:
        A. Jiang, D. Wong, G. Zhou, D. Andersen, J. Dean, G. Ganger, G. Joshi, M. Kaminsky,
        M. Kozuch, Z. Lipton, P. Pillai: Accelerating Deep Learning by Focusing on the Biggest
        Losers, 2019. https://arxiv.org/abs/1910.00762
    """

    needs_scores: ClassVar[bool] = True

    beta: float = 1.0
    min_probability: float = 0.0
    history: int = 1024
    warmup_epochs: int = 0
    ties: Ties = "mid"
    target_fraction: float | None = None
    cdf: Cdf = "exact"

    def __post_init__(self) -> None:
        self._check_number("beta", lambda beta: 0 < beta < math.inf, "a finite number above 0")
        self._check_number("min_probability", lambda s: 0 <= s <= 1, "a number in [0, 1]")
        self._check_whole("history", 1)
        self._check_whole("warmup_epochs", 0)
        self._check(self.ties in TIES, "ties", " or ".join(map(repr, TIES)))
        if self.target_fraction is not None:
            floor = self.min_probability
            allowed = "a number above min_probability and below 1, or none"
            self._check_number("target_fraction", lambda share: floor < share < 1, allowed)
        self._check(self.cdf in get_args(Cdf), "cdf", " or ".join(map(repr, get_args(Cdf))))

    @property
    def counts_losses(self) -> bool:
        """With `cdf="histogram"`."""
        return self.cdf == "histogram"

    @property
    def stalls_on_old_scores(self) -> bool:
        """Above beta 1, unless a warm-up has passed when selection begins."""
        return self.beta > 1 and not self.warmup_epochs

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose the rows whose draw lies below their probability; scores are losses."""
        losses = self._finite(ids, scores)
        probability = np.ones(len(ids))
        if draws.epoch >= self.warmup_epochs and len(ids):
            probability = self.probability(losses, self._given(distribution))
        return self._draw(ids, probability, draws)

    def probability(
        self, losses: Floats, distribution: LossDistribution
    ) -> npt.NDArray[np.float64]:
        """P of each loss after the warm-up. float64 [n] in [s, 1]."""
        ranked = distribution if self.cdf == "exact" else distribution.histogram()
        rank, beta = ranked.cdf(losses, self.ties), self.beta
        if self.target_fraction is not None:
            recent = distribution.recent(recent_enough(len(losses), len(distribution)))
            # a function of the distribution alone, which ends with the pool's own losses: every
            # scorer, and every replay of a pool, finds the same
            ranks = rank if np.array_equal(recent, losses) else ranked.cdf(recent, self.ties)
            beta = solve_beta(ranks, self.min_probability, self.target_fraction)
        return np.maximum(self.min_probability, rank**beta)

    def expected_fraction(self) -> float:
        """Share of rows that is kept after the warm-up if losses are continuous and stationary.

        1/(beta+1); with a floor, s u0 + (1 - u0^(beta+1))/(beta+1), where u0 = s^(1/beta); with
        `target_fraction` that one, stationary or not.
        """
        if self.target_fraction is not None:
            return self.target_fraction
        floor_ends: float = self.min_probability ** (1 / self.beta)
        above: float = (1 - floor_ends ** (self.beta + 1)) / (self.beta + 1)
        return self.min_probability * floor_ends + above
