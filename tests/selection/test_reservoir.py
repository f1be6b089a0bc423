"""The reservoir samples as successive drawing does, in any order and partition."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raysb.seeding import Draws
from raysb.selection.reservoir import WeightedReservoir

WEIGHTS = np.array([1.0, 2.0, 4.0, 0.5, 0.0, 3.0])


def reservoir(capacity: int = 2, seed: int = 0, weights: np.ndarray = WEIGHTS) -> WeightedReservoir:
    made = WeightedReservoir(capacity, Draws(seed=seed))
    made.update(np.arange(len(weights)), weights)
    return made


def content(made: WeightedReservoir) -> list[list[float]]:
    return [column.tolist() for column in made.sample()]


def successive(sample: tuple[int, ...], weights: np.ndarray) -> float:
    """Chance to draw these rows in this order, each by its weight among those still there."""
    chance, left = 1.0, weights.sum()
    for row in sample:
        chance *= weights[row] / left
        left -= weights[row]
    return float(chance)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ordered_samples_are_as_frequent_as_in_successive_drawing(size) -> None:
    rounds = 6000
    wanted = {s: successive(s, WEIGHTS) for s in permutations([0, 1, 2, 3, 5], size)}
    assert sum(wanted.values()) == pytest.approx(1)
    counts = dict.fromkeys(wanted, 0)
    for seed in range(rounds):
        counts[tuple(reservoir(size, seed).sample().ids.tolist())] += 1
    expected = np.array(list(wanted.values())) * rounds
    assert stats.chisquare(list(counts.values()), expected).pvalue > 1e-4


def test_rows_of_one_reservoir_are_included_as_enumeration_says() -> None:
    rounds, weights = 6000, np.array([5.0, 1.0, 1.0, 2.0, 3.0])
    wanted = np.zeros(5)
    for sample in permutations(range(5), 3):
        wanted[list(sample)] += successive(sample, weights)
    counts = np.zeros(5)
    for seed in range(rounds):
        counts[reservoir(3, seed, weights).sample().ids] += 1
    deviation = np.sqrt(wanted * (1 - wanted) / rounds)
    assert (abs(counts / rounds - wanted) < 4.5 * deviation).all()


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(0, 99),
    st.data(),
)
def test_parts_merge_into_what_one_pass_gives_exactly(weights, capacity, seed, data) -> None:
    values = np.array(weights, np.float64)
    ids = np.arange(len(values)) * 7 - 20
    whole = WeightedReservoir(capacity, Draws(seed=seed))
    whole.update(ids, values)
    order = np.array(data.draw(st.permutations(range(len(values)))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=3)))
    parts = []
    for rows in np.split(order, cuts):
        parts.append(WeightedReservoir(capacity, Draws(seed=seed)))
        for row in np.array_split(rows, 3):
            parts[-1].update(ids[row], values[row])
    merged = parts[-1]
    for part in parts[:-1]:
        merged.merge(part)
    assert content(merged) == content(whole)
    assert len(whole) == min(capacity, np.count_nonzero(values))


def test_a_long_stream_in_one_call_equals_many_short_ones() -> None:
    """Longer than what is entered at once."""
    values = np.random.default_rng(0).pareto(1.5, 150_000)
    whole, pieces = (WeightedReservoir(500, Draws()) for _ in range(2))
    whole.update(np.arange(150_000), values)
    for ids in np.array_split(np.arange(150_000), 71):
        pieces.update(ids, values[ids])
    assert content(whole) == content(pieces)
    keys = -np.log1p(-Draws().uniform(np.arange(150_000), "reservoir")) / values
    assert whole.sample().ids.tolist() == np.argsort(keys)[:500].tolist()


def test_replays_change_nothing() -> None:
    made = reservoir(3)
    before = content(made)
    made.update(np.arange(6), WEIGHTS)
    made.update(np.array([2, 2, 2]), np.array([4.0, 4.0, 4.0]))
    made.merge(reservoir(3))
    assert content(made) == before
    assert len(set(before[0])) == 3


def test_sums_over_the_stream_are_estimated_without_bias() -> None:
    draw = np.random.default_rng(0)
    weights = draw.exponential(size=60)
    values = weights * draw.normal(1, 0.3, 60)
    found = []
    for seed in range(4000):
        sample = reservoir(8, seed, weights).sample()
        found.append((values[sample.ids] / sample.probability).sum())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - values.sum()) < 4.5 * error
    assert error < 0.02 * abs(values.sum())


def test_of_a_short_stream_all_rows_are_held_with_certainty() -> None:
    ids, weights, probability = reservoir(10).sample()
    assert sorted(ids.tolist()) == [0, 1, 2, 3, 5]  # 4 has weight 0
    assert sorted(weights.tolist()) == sorted(WEIGHTS[WEIGHTS > 0].tolist())
    assert probability.tolist() == [1] * 5
    assert probability.dtype == np.float32
    assert len(WeightedReservoir(3, Draws()).sample().ids) == 0


def test_weights_of_any_size_have_keys_that_differ() -> None:
    """u^(1/w) would be 0 for small weights and 1 for large ones."""
    for scale in (1e-300, 1e300):
        ids, _, probability = reservoir(2, weights=WEIGHTS * scale).sample()
        assert ids.tolist() == reservoir(2).sample().ids.tolist()
        np.testing.assert_allclose(probability, reservoir(2).sample().probability, rtol=1e-5)
    huge = reservoir(1, weights=np.array([1e-300, 1e300])).sample()
    assert huge.ids.tolist() == [1]
    assert huge.probability.tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0])
def test_weights_that_are_none_are_refused_and_nothing_is_entered(value) -> None:
    made = reservoir()
    before = content(made)
    with pytest.raises(ValueError, match="need as many finite weights"):
        made.update(np.arange(3) + 10, np.array([1e9, value, 1e9]))
    with pytest.raises(ValueError, match="3 ids need as many"):
        made.update(np.arange(3), np.ones(2))
    assert content(made) == before


def test_reservoirs_of_other_draws_or_sizes_do_not_merge() -> None:
    for other in (reservoir(2, seed=1), reservoir(3)):
        with pytest.raises(ValueError, match=r"merge: this one has .* Nothing was merged"):
            reservoir().merge(other)


def test_a_restored_reservoir_goes_on_as_the_saved_one() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    whole, restored = reservoir(20, weights=values[:100]), WeightedReservoir(20, Draws())
    restored.load_state_dict(whole.state_dict())
    for each in (whole, restored):
        each.update(np.arange(100, 200), values[100:])
    assert content(restored) == content(whole)
    assert content(restored) == content(reservoir(20, weights=values))


def test_a_state_of_another_reservoir_is_refused() -> None:
    state = reservoir().state_dict()
    for other in (WeightedReservoir(3, Draws()), WeightedReservoir(2, Draws(seed=1))):
        with pytest.raises(ValueError, match="Nothing was loaded"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="WeightedReservoir"):
        reservoir().load_state_dict({"version": 1})


def test_a_reservoir_for_no_row_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"WeightedReservoir\(capacity=0\): must be a whole number of at least 1"
    ):
        WeightedReservoir(0, Draws())


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ((4.0, 1.0), 0.8),
        ((4.0 + 2, 1.0 + 2), 6 / 9),  # smoothed by a constant
        ((4.0 + 0.5 * 2.5, 1.0 + 0.5 * 2.5), 5.25 / 7.5),  # by half of the mean
        ((4.0**0.5, 1.0), 2 / 3),
    ],
)
@pytest.mark.parametrize("first", [0.5, 0.2])
def test_a_class_is_drawn_as_often_as_its_weight_and_size_say(weights, share, first) -> None:
    """share = p a / (p a + (1 - p) b) of 10,000 draws, within 2 %; p = .5 gives a / (a + b)."""
    rare = np.arange(50) < 50 * first
    values = np.where(rare, *weights)
    of_rare = sum(int(rare[reservoir(1, seed, values).sample().ids[0]]) for seed in range(10_000))
    wanted = first * share / (first * share + (1 - first) * (1 - share))
    assert of_rare / 10_000 == pytest.approx(wanted, abs=0.02)
