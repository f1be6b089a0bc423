"""Rows are drawn as one after the other by weight; the chances are those of enumeration."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy import stats

from raysb.seeding import Draws
from raysb.selection.successive import inclusion, successive_sample
from raysb.selection.top_k import rows_kept

GOLDEN = {  # exact chances of the ranks of n rows at a kept fraction
    (4, 1 / 2): [0.15394, 0.43106, 0.64850, 0.76649],
    (8, 1 / 2): [0.0867, 0.2456, 0.3842, 0.5014, 0.5972, 0.6729, 0.7325, 0.7795],
    (8, 1 / 4): [0.0003, 0.0081, 0.0373, 0.1010, 0.2098, 0.3672, 0.5589, 0.7175],
    (12, 1 / 3): [
        *(0.0024, 0.0211, 0.0579, 0.1114, 0.1797, 0.2598),
        *(0.3480, 0.4398, 0.5299, 0.6133, 0.6870, 0.7497),
    ],
}


def by_rank(size: int, fraction: float) -> np.ndarray:
    return ((np.arange(size) + 0.5) / size) ** (1 / fraction - 1)


def chances_of_sets(weights: np.ndarray, count: int) -> dict[tuple[int, ...], float]:
    """Of every set of so many rows, by adding up over which of them is drawn last."""
    rows, total = range(len(weights)), weights.sum()
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for size in range(1, count + 1):
        chances = {
            taken: sum(
                chances[before] * weights[last] / (total - weights[list(before)].sum())
                for last in taken
                for before in [tuple(row for row in taken if row != last)]
            )
            for taken in combinations(rows, size)
        }
    return chances


def chances_of_rows(weights: np.ndarray, count: int) -> np.ndarray:
    chances = np.zeros(len(weights))
    for taken, chance in chances_of_sets(weights, count).items():
        chances[list(taken)] += chance
    return chances


@pytest.mark.parametrize(("size", "fraction"), GOLDEN)
def test_chances_are_the_golden_ones_of_the_source(size, fraction) -> None:
    weights, count = by_rank(size, fraction), rows_kept(fraction, size)
    golden = GOLDEN[size, fraction]
    np.testing.assert_allclose(chances_of_rows(weights, count), golden, atol=6e-5)
    found = inclusion(np.log(weights), count)
    np.testing.assert_allclose(found, golden, atol=0.0101)
    assert found.sum() == pytest.approx(count)


@pytest.mark.parametrize(("size", "fraction"), GOLDEN)
def test_sets_of_rows_are_as_frequent_as_enumeration_says(size, fraction) -> None:
    """Chi-square of 100,000 samples; sets that are expected less than five times are put together.

    The bound of p is for four cases, at seeds that were not chosen.
    """
    rounds, count = 100_000, rows_kept(fraction, size)
    wanted = chances_of_sets(by_rank(size, fraction), count)
    assert len(wanted) == comb(size, count)
    assert sum(wanted.values()) == pytest.approx(1)
    uniform = Draws(seed=1).uniform(np.arange(rounds * size)).reshape(rounds, size)
    log_weights = np.log(by_rank(size, fraction))
    counts = dict.fromkeys(wanted, 0)
    for row in uniform:
        counts[tuple(successive_sample(log_weights, count, row).tolist())] += 1
    expected = np.array(list(wanted.values())) * rounds
    found = np.array(list(counts.values()))
    rare = expected < 5
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        found = np.append(found[~rare], found[rare].sum())
    assert stats.chisquare(found, expected).pvalue > 1e-3


@pytest.mark.parametrize("size", range(1, 11))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 0.9, 1])
def test_chances_are_within_their_bound_of_enumeration(size, fraction) -> None:
    weights, count = by_rank(size, fraction), rows_kept(fraction, size)
    exact = count in (1, 2, size)
    found = inclusion(np.log(weights), count)
    bound = 1e-12 if exact else 0.0122 if size < 6 else 0.0095
    np.testing.assert_allclose(found, chances_of_rows(weights, count), atol=bound)


@pytest.mark.parametrize(("size", "count"), [(40, 3), (40, 9), (40, 12), (2000, 5), (2000, 300)])
def test_chances_in_larger_pools_are_as_frequent(size, count) -> None:
    log_weights = (size / count - 1) * np.log((np.arange(size) + 0.5) / size)
    rounds, draw = 8000, np.random.default_rng(0)
    counts = np.zeros(size)
    for _ in range(rounds):
        counts[successive_sample(log_weights, count, draw.random(size))] += 1
    chances = inclusion(log_weights, count)
    assert chances.sum() == pytest.approx(count)
    deviation = np.sqrt(chances * (1 - chances) / rounds)
    assert (abs(counts / rounds - chances) < 4.5 * deviation + 0.008).all()


def test_equal_weights_have_equal_chances_exactly() -> None:
    for count in (1, 2, 5, 12, 30):
        np.testing.assert_allclose(inclusion(np.zeros(30), count), count / 30)


def test_weights_that_no_float_holds_are_compared_by_their_logarithms() -> None:
    log_weights = np.array([-5000.0, -4000.0, -3000.0, -2000.0])
    for seed in range(20):
        uniform = Draws(seed=seed).uniform(np.arange(4))
        assert successive_sample(log_weights, 3, uniform).tolist() == [1, 2, 3]


def test_none_or_all_rows_can_be_asked_for() -> None:
    uniform = np.array([0.0, 0.5, 0.9])
    assert successive_sample(np.zeros(3), 0, uniform).tolist() == []
    assert successive_sample(np.zeros(3), 3, uniform).tolist() == [0, 1, 2]
    assert successive_sample(np.zeros(3), 1, uniform).tolist() == [0]  # 0 arrives at once
