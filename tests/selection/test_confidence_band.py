"""ConfidenceBand keeps the ranks inside the band, and the share high - low exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.seeding import Draws
from raysb.selection import ConfidenceBand, LossDistribution

EDGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda e: e[1] - e[0] > 1e-6)


def test_written_out() -> None:
    losses = np.arange(10, dtype=np.float32)
    band = ConfidenceBand(low=0.35, high=0.8)
    chances = band.probability(losses, LossDistribution(losses))
    np.testing.assert_allclose(chances, [0, 0, 0, 0.5, 1, 1, 1, 1, 0, 0], atol=1e-12)


@given(EDGES, st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_the_chances_of_the_recent_losses_add_up_to_the_band(edges, losses) -> None:
    values = np.array(losses, np.float32)
    band = ConfidenceBand(low=edges[0], high=edges[1])
    chances = band.probability(values, LossDistribution(values))
    assert chances.sum() == pytest.approx(len(values) * (edges[1] - edges[0]), abs=1e-9)


def test_equal_losses_are_kept_at_the_share_of_the_band() -> None:
    """By mid-ranks all of them would be kept, or none for ever."""
    losses = np.full(200, 0.7, np.float32)
    for low, high in ((0.6, 0.9), (0.1, 0.2)):
        chances = ConfidenceBand(low=low, high=high).probability(losses, LossDistribution(losses))
        np.testing.assert_allclose(chances, high - low)


def test_a_new_row_is_ranked_among_the_losses_of_other_pools() -> None:
    window = np.arange(900, dtype=np.float32)
    pool = np.float32([-5, 100.5, 850.5, 899.5, 5000])
    merged = LossDistribution.merged(window, pool, 1024)
    chosen = ConfidenceBand(low=0.05, high=0.97).select(np.arange(5), pool, merged, Draws())
    assert chosen.indices.tolist() == [1, 2]
    assert chosen.probability.tolist() == [1, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"low": -0.1}, {"low": 0.9}, {"low": float("nan")}, {"high": 1.1}, {"high": 0.4}, {"high": 0}],
    ids=str,
)
def test_a_band_that_is_none_is_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"ConfidenceBand\((low|high)=.*\): must be"):
        ConfidenceBand(**wrong)


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"ConfidenceBand\(history=0\): must be a whole number of at least 1"
    ):
        ConfidenceBand(history=0)
