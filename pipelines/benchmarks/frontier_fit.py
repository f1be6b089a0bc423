"""From errors at budgets to ratios of cost at equal error.

S seeds, B budgets in ascending order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Runs:
    """The runs of one method in one regime. All float64 [S, B].

    Args:
        cost: What was spent, in epochs of uniform training.
        backpropped: Rows back-propagated, in epochs of uniform training.
        error: On the test rows.
    """

    cost: Floats
    backpropped: Floats
    error: Floats

    def of(self, seeds: npt.NDArray[np.int64]) -> "Runs":
        """The runs of some seeds, some of them several times."""
        return Runs(self.cost[seeds], self.backpropped[seeds], self.error[seeds])

    def frontier(self) -> "Frontier":
        """Means over the seeds, the errors made to fall."""
        return Frontier(
            self.cost.mean(axis=0),
            self.backpropped.mean(axis=0),
            decreasing(self.error.mean(axis=0)),
        )


@dataclass(frozen=True)
class Frontier:
    """Error against cost, and rows against cost. All float64 [B]; errors never rise."""

    cost: Floats
    backpropped: Floats
    error: Floats

    def cost_of(self, error: float) -> float:
        """The least cost with an error of at most so much; linear between the budgets.

        Infinite where no budget reaches it. The smallest budget where that does already: an upper
        bound, since what less would have given was not measured.
        """
        if error < self.error[-1]:
            return np.inf
        reached = int(np.argmax(self.error <= error))
        if reached == 0:
            return float(self.cost[0])
        before, after = self.error[reached - 1], self.error[reached]
        share = (before - error) / (before - after)
        return float(self.cost[reached - 1] + share * (self.cost[reached] - self.cost[reached - 1]))

    def rows_of(self, error: float) -> float:
        """Rows back-propagated at that cost, in epochs."""
        cost = self.cost_of(error)
        if np.isinf(cost):
            return np.inf
        return float(np.interp(cost, self.cost, self.backpropped))


@dataclass(frozen=True)
class Ratio:
    """A ratio to uniform training with its bootstrap interval; infinite: never reached."""

    value: float
    low: float
    high: float


def decreasing(values: Floats) -> Floats:
    """The sequence without a rise that is nearest in squares (pool adjacent violators). [B]"""
    means: list[float] = []
    counts: list[int] = []
    for value in values:
        means.append(float(value))
        counts.append(1)
        while len(means) > 1 and means[-2] < means[-1]:
            mean, count = means.pop(), counts.pop()
            means[-1] = (means[-1] * counts[-1] + mean * count) / (counts[-1] + count)
            counts[-1] += count
    return np.repeat(means, counts)


def ratios(method: Runs, uniform: Runs, budget: int) -> tuple[Ratio, Ratio]:
    """Cost and rows back-propagated at the error of uniform training at one budget.

    The interval is that of percentiles over resampled seeds; a seed brings its run of the method
    and that of uniform training, which had the same initial weights and the same order of rows.

    Args:
        method: S seeds, B budgets.
        uniform: The same seeds and budgets.
        budget: Index of uniform training's budget, from the end if negative.

    Returns:
        Ratio of costs, ratio of rows.
    """
    count = len(uniform.error)
    random = np.random.default_rng(0)
    everyone = np.arange(count)
    draws = [everyone, *random.integers(0, count, (RESAMPLES, count))]
    samples = np.array([_ratios(method.of(seeds), uniform.of(seeds), budget) for seeds in draws])
    tails = 100 * np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = np.percentile(samples[1:], tails, axis=0, method="nearest")
    cost, rows = (Ratio(*map(float, each)) for each in zip(samples[0], low, high, strict=True))
    return cost, rows


def _ratios(method: Runs, uniform: Runs, budget: int) -> tuple[float, float]:
    ours, theirs = method.frontier(), uniform.frontier()
    error = float(theirs.error[budget])
    return (
        ours.cost_of(error) / theirs.cost_of(error),
        ours.rows_of(error) / theirs.rows_of(error),
    )


def mean_and_spread(values: Floats) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds; of one seed there is none."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return float(values.mean()), spread
