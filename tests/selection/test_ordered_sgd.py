"""OrderedSGD: top q of random minibatches; chances are hypergeometric."""

import numpy as np
import pytest
from scipy import stats

from raysb.seeding import Draws
from raysb.selection import HighestK, OrderedSGD
from raysb.selection.ordered_sgd import inclusion


def test_the_golden_chances_of_sixteen_rows() -> None:
    """The j-th largest of 16 in a minibatch of 8 of which 4 are kept, drawn once: sum 4."""
    golden = [0.5] * 4 + [0.4872, 0.4499, 0.3846, 0.2976, 0.2024, 0.1154, 0.0501, 0.0128] + [0] * 4
    once = inclusion(16, 8, 4) * 8 / 16
    np.testing.assert_allclose(once, golden, atol=5e-5)
    assert once.sum() == pytest.approx(4)
    descending = np.arange(16, 0, -1, dtype=np.float32)
    both = OrderedSGD(fraction=0.5, minibatch=8).probability(descending)
    np.testing.assert_allclose(both / 2, golden, atol=5e-5)


@pytest.mark.parametrize(
    ("n", "s", "q"), [(2, 1, 1), (9, 4, 1), (9, 4, 4), (30, 7, 3), (30, 30, 11), (2000, 64, 32)]
)
def test_the_chances_are_those_of_scipys_hypergeometric(n, s, q) -> None:
    wanted = stats.hypergeom(n - 1, np.arange(n), s - 1).cdf(q - 1)
    np.testing.assert_allclose(inclusion(n, s, q), wanted, atol=1e-9)


@pytest.mark.parametrize("size", [1, 5, 63, 64, 65, 95, 97, 300])
def test_q_rows_of_each_minibatch_are_kept(size) -> None:
    """Minibatches of two sizes, one apart, where s does not divide the pool."""
    losses = np.random.default_rng(0).exponential(size=size).astype(np.float32)
    selector = OrderedSGD(fraction=0.25, minibatch=16)
    rows = selector.select(np.arange(size), losses, None, Draws()).indices
    parts = np.array_split(np.arange(size), max(round(size / 16), 1))
    assert len(rows) == sum(max(round(0.25 * len(part)), 1) for part in parts)
    assert selector.probability(losses).sum() == pytest.approx(len(rows), abs=1e-6)


def test_one_minibatch_is_the_highest_of_the_pool() -> None:
    losses = np.random.default_rng(0).exponential(size=90).astype(np.float32)
    picks = [
        selector.select(np.arange(90), losses, None, Draws()).indices.tolist()
        for selector in (OrderedSGD(fraction=0.3, minibatch=90), HighestK(fraction=0.3))
    ]
    assert picks[0] == picks[1]


def test_the_highest_of_a_minibatch_are_kept_and_lower_ones_are_not() -> None:
    """The q highest of the pool are certain; the q-1 lowest others of a minibatch are not."""
    losses = np.arange(64, dtype=np.float32)
    chances = OrderedSGD(fraction=0.25, minibatch=16).probability(losses)
    assert (chances[-4:] > 1 - 1e-9).all()
    assert (chances[:12] < 1e-9).all()


@pytest.mark.parametrize(
    ("name", "value"), [("fraction", 0), ("fraction", 2), ("minibatch", 0), ("minibatch", -3)]
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"OrderedSGD\({name}={value!r}\): must be"):
        OrderedSGD(**{name: value})
