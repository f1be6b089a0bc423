"""The exponent that keeps a target equals the closed form and what a root finder finds."""

import numpy as np
import pytest
from scipy import optimize

from raysb.selection.target import RECENT_LOSSES, recent_enough, solve_beta


@pytest.mark.parametrize("target", [0.02, 0.1, 0.25, 0.5, 0.9])
def test_of_uniform_ranks_it_is_that_of_the_kept_fraction(target) -> None:
    """1/(beta+1) = target."""
    ranks = (np.arange(100_000) + 0.5) / 100_000
    assert solve_beta(ranks, 0.0, target) == pytest.approx(1 / target - 1, rel=1e-3)


@pytest.mark.parametrize("floor", [0.0, 0.05, 0.19])
@pytest.mark.parametrize("skew", [0.2, 1, 5])
def test_it_is_the_root_that_scipy_finds(floor, skew) -> None:
    ranks = np.random.default_rng(0).uniform(size=500) ** skew

    def excess(beta: float) -> float:
        return float(np.maximum(floor, ranks**beta).mean() - 0.2)

    found = solve_beta(ranks, floor, 0.2)
    assert abs(excess(found)) < 2e-6
    assert found == pytest.approx(optimize.brentq(excess, 1e-6, 1e4), rel=1e-3)


def test_ranks_of_zero_leave_the_others() -> None:
    """Strict ranks of equal losses: nothing can be kept; of half of them: the other half."""
    assert np.isfinite(solve_beta(np.zeros(8), 0.0, 0.5))
    few = solve_beta(np.array([0, 0, 0, 0.5]), 0.0, 0.5)
    assert 0 < few < 1e-3
    assert solve_beta(np.array([0, 0.5]), 0.0, 0.25) == pytest.approx(1, abs=1e-4)


def test_what_counts_as_recent() -> None:
    assert recent_enough(256, 1024) == 512
    assert recent_enough(256, 8192) == RECENT_LOSSES
    assert recent_enough(4096, 8192) == 4096
