"""Rows drawn in proportion to their gradient, with weights that undo the bias."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids, Selection
from raysb.seeding import Draws, generator
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution

CHUNK = 128  # scores of which tau is taken at once: those of a batch, in the source
SMOOTHING = 0.9  # of the moving average over chunks, as in the source
PROBED = 8  # while off, one row of so many is scored ...
LEAST_PROBED = 16  # ... but at least so many of a pool

Doubles = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class ImportanceSampling(Selector):
    """Draws k of the n rows of a pool with replacement, the larger the gradient the likelier.

        k = max(round(n / m), 1)
        p_i = G_i / sum G
        w_i = (1 / (n p_i)) ^ e,  times what makes sum w G the same as for e = 1

    G bounds the norm of the gradient of row i from above. With e = 1 the mean of w f over the draws
    has the mean of f over the pool as its expectation, for any f that is 0 where G is; of all p,
    this one has the least variance of the gradient as far as G is its norm. A row may be drawn
    more than once: `indices` repeat. `probability` is the chance to be drawn at all, 1-(1-p)^k.

    That pays only where the G differ enough. The measure is tau = sqrt(n sum p^2), 1 where all are
    alike. While a moving average of tau over recent scores is not above its threshold, every row is
    trained with weight 1, and of each pool only one row in 8 (at least 16, by lot) is scored, to
    watch tau: see `to_score`. On or off is a function of the scores before the pool, which come
    with the leave to score it: of the newer half of the history; the other half is room for the
    pool. A pool of more rows than that is scored whole, and decided by what is known with it.

    Args:
        presample: m, rows scored for each row drawn, at least 1.
        tau_threshold: Least tau, at least 0; none is (m + 3) / 3, from which on a score for each of
            m rows is paid back if a backward pass costs two forward passes. 0 is always on.
        exponent: e, at most 1: 1 is unbiased; 0 weighs all draws alike, which favours rows of
            large gradients; below 0 favours them more. The source recommends .5 in that case. At 0
            each draw weighs 1 where every G is above 0, else the share of rows whose G is: in the
            mean over all rows that e = 1 estimates, the others count 0.
        history: R, scores by which tau is known, at least 256; twice the rows of a pool or more, or
            nothing is left unscored.
        at: Name of the module at whose output the gradient is taken; none is the last one with
            weights, see `raysb.scoring.gradient_norm`.

    Raises:
        ValueError: An argument is out of its range.

    References:
        A. Katharopoulos, F. Fleuret: Not All Samples Are Created Equal: Deep Learning with
        Importance Sampling, 2018. https://arxiv.org/abs/1803.00942
        A. Katharopoulos, F. Fleuret: Biased Importance Sampling for Deep Neural Network Training,
        2017. https://arxiv.org/abs/1706.00043 (the exponent)
    """

    needs_scores: ClassVar[bool] = True
    trains_unscored: ClassVar[bool] = True
    score: ClassVar[str] = "gradient_norm_bound"

    presample: float = 3.0
    tau_threshold: float | None = None
    exponent: float = 1.0
    history: int = 4096
    at: str | None = None

    def __post_init__(self) -> None:
        self._check_number("presample", lambda m: 1 <= m < math.inf, "a finite number, at least 1")
        if self.tau_threshold is not None:
            allowed = "a finite number of at least 0, or none"
            self._check_number("tau_threshold", lambda tau: 0 <= tau < math.inf, allowed)
        self._check_number("exponent", lambda e: -math.inf < e <= 1, "a finite number, at most 1")
        self._check_whole("history", 2 * CHUNK)
        named = isinstance(self.at, str) and bool(self.at)
        self._check(self.at is None or named, "at", "the name of a module, or none")

    @property
    def threshold(self) -> float:
        """Tau from which on rows are drawn: (B + 3b) / (3b) for B = m b scored rows of b drawn."""
        return (self.presample + 3) / 3 if self.tau_threshold is None else self.tau_threshold

    def is_on(self, known: Floats) -> bool:
        """Whether rows are drawn, given recent scores in their order. [<= R]"""
        return smoothed_tau(known) > self.threshold

    def to_score(self, ids: Ids, window: Floats, draws: Draws) -> npt.NDArray[np.int64] | None:
        """Say which rows are to be scored: all while on, else enough to watch tau.

        Args:
            ids: int64 [n].
            window: float32 [<= R], the last scores before the pool, in pool order.
            draws: Random numbers keyed by id, of the pool's epoch.

        Returns:
            Positions, ascending; `None` for all rows.
        """
        count = max(round(len(ids) / PROBED), LEAST_PROBED)
        half = self.history // 2
        if count >= len(ids) or len(ids) > half or self.is_on(window[-half:]):
            return None
        by_lot = np.argpartition(draws.uniform(ids, "probe"), count)
        return np.sort(by_lot[:count])

    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Draw rows in proportion to their scores, or take all while off.

        Raises:
            ValueError: A score is negative or not finite, or there are not as many as ids.
        """
        bounds = self._finite(ids, scores)
        if (bounds < 0).any():
            raise ValueError(
                f"ImportanceSampling.select: {int((bounds < 0).sum())} of {len(ids)} scores are "
                "negative; a chance in proportion to them would be too: rank by gradient_norm_bound"
            )
        if not len(ids) or not self.is_on(self._known(len(ids), self._given(distribution))):
            return self._selected(ids, np.arange(len(ids)), np.ones(len(ids)))
        share = shares(bounds)
        count = max(round(len(ids) / self.presample), 1)
        rows = draw_rows(share, count, ids, draws)
        with np.errstate(divide="ignore"):  # a row that has all the gradient is drawn for sure
            chance = -np.expm1(count * np.log1p(-share[rows]))
        weight = importance_weights(bounds, self.exponent)[rows].astype(np.float32)
        chance = np.maximum(chance, np.finfo(np.float32).tiny)
        return self._selected(ids, rows, chance)._replace(weight=weight)

    def _known(self, rows: int, distribution: LossDistribution) -> Floats:
        """The scores by which a pool is decided: those that `to_score` saw, whatever was scored."""
        known = distribution.recent(self.history).astype(np.float32, copy=False)
        half = self.history // 2
        if rows > half:
            return known
        return known[: max(len(known) - rows, 0)][-half:]


def shares(scores: npt.NDArray[np.floating]) -> Doubles:
    """p_i = s_i / sum s; all alike where every score is 0. float64 [n]"""
    scaled = scores.astype(np.float64)
    total = scaled.sum()
    return scaled / total if total > 0 else np.full(len(scores), 1 / max(len(scores), 1))


def draw_rows(share: Doubles, count: int, ids: Ids, draws: Draws) -> npt.NDArray[np.int64]:
    """Rows drawn independently with probabilities p, by inverting their sum in the order of ids.

    The draws are those of (seed, epoch, smallest id), so the order of the rows changes nothing.

    Args:
        share: p, float64 [n], n at least 1.
        count: k, at least 1.
        ids: int64 [n].
        draws: Of the pool's epoch.

    Returns:
        int64 [k], ascending, with repetitions.
    """
    order = np.argsort(ids)
    uniform = generator(draws.seed, "importance", draws.epoch, int(ids[order[0]])).random(count)
    return np.sort(order[places(share[order], uniform)])


def places(share: Doubles, uniform: Doubles) -> npt.NDArray[np.int64]:
    """The first row at which the sum of the shares is above each of some uniform numbers, times S.

    Numpy's are at most 1 - 2^-53, whose product with the whole sum S is below S in any rounding.

    Args:
        share: [n], of a sum S above 0.
        uniform: [k] in [0, 1).

    Returns:
        int64 [k], ascending; never a row of share 0.
    """
    sums = np.cumsum(share)
    # numbers in order are looked up near each other, five times as fast
    found: npt.NDArray[np.int64] = np.searchsorted(sums, np.sort(uniform) * sums[-1], side="right")
    return found


def importance_weights(scores: npt.NDArray[np.floating], exponent: float = 1.0) -> Doubles:
    """w_i = (1 / (n p_i)) ^ e, times what makes sum w s the same as for e = 1.

    The last says that the expected weight of a draw, sum p w, is the same for every e, the share m
    / n of the m scores above 0: the step size stays. With e = 0 each of these weighs m / n, which
    is 1 where no score is 0. All 1 where every score is 0; 0 for a score of 0 among others, which
    is never drawn.

    Args:
        scores: [n], finite, at least 0.
        exponent: e, at most 1.
    """
    values = scores.astype(np.float64)
    weights = np.zeros(len(values))
    some = values > 0
    if not some.any():
        return np.ones(len(values))
    mean, positive = values.mean(), values[some]
    if exponent == 1:
        weights[some] = mean / positive
        return weights
    powers = -exponent * np.log(positive)
    powers = np.exp(powers - powers.max())  # of any exponent, without overflow
    unbiased = mean * len(positive)  # sum w s for e = 1
    weights[some] = powers * (unbiased / (powers @ positive))
    return weights


def tau(scores: npt.NDArray[np.floating]) -> float:
    """sqrt(n sum p^2): by how much drawing by p beats drawing uniformly.

    1 / sqrt(1 - ||p - u||^2 / ||p||^2) with u = 1/n is the same number. tau^2 is the mean of
    squares over the square of the mean: it takes tau^2 times as many uniform draws to have the
    second moment of draws by p. From 1, where all are alike (or 0, or none), to sqrt(n).

    Args:
        scores: [n], finite, at least 0.
    """
    return float(_taus(scores[None])[0]) if len(scores) else 1.0


def smoothed_tau(scores: npt.NDArray[np.floating]) -> float:
    """The moving average of tau over chunks of 128 scores, the latest counting most.

        sum_j .9^j tau_j / sum_j .9^j,    j = 0 the last chunk

    Args:
        scores: [m], oldest first. Fewer than 16 tell nothing: 1, and fewer than 128 are one chunk.
    """
    number = len(scores) // CHUNK
    if not number:
        return tau(scores) if len(scores) >= LEAST_PROBED else 1.0
    each = _taus(scores[len(scores) - number * CHUNK :].reshape(number, CHUNK))
    return float(np.average(each, weights=SMOOTHING ** np.arange(number)[::-1]))


def _taus(scores: npt.NDArray[np.floating]) -> Doubles:
    """Tau of each row of scores. [g, n] to [g]"""
    values = scores.astype(np.float64)
    total = values.sum(1)
    squares = (values**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Doubles = np.sqrt(scores.shape[1] * squares) / total
    return np.where(total > 0, found, 1.0)
