"""Ranks from counts are off by no more than a bin, and parts add up to the whole exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raysb.history.ring import LossRing
from raysb.schema import ID
from raysb.seeding import Draws
from raysb.selection.distribution import LossDistribution
from raysb.selection.histogram import LARGEST, NUM_BINS, SMALLEST, LossHistogram, bins_of
from raysb.selection.selective_backprop import SelectiveBackprop
from raysb.selection.stage import select_pool

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
LOSSES = st.lists(st.one_of(FLOATS, st.floats(0, 8, width=16)), min_size=1, max_size=60)
DISTRIBUTIONS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "heavy tails": stats.lognorm(3),
    "narrow": stats.norm(2.3026, 1e-4),
    "nearly 0": stats.lognorm(6, scale=1e-7),
    "uniform": stats.uniform(0, 20),
    "counts": stats.poisson(3),
    "two classes": stats.bernoulli(0.2),
}


def floats(values: object) -> np.ndarray:
    return np.array(values, np.float32)


def off_by_too_much(losses: np.ndarray, asked: np.ndarray) -> bool:
    exact, binned = LossDistribution(losses), LossHistogram(losses)
    mass = binned.bin_mass(asked) + 1e-12
    mid = abs(binned.cdf(asked) - exact.cdf(asked)) > mass / 2 + 1e-12
    strict = abs(binned.cdf(asked, "strict") - exact.cdf(asked, "strict")) > mass
    return bool((mid | strict).any())


@given(LOSSES, LOSSES)
def test_ranks_are_off_by_at_most_the_share_of_a_bin(losses, asked) -> None:
    assert not off_by_too_much(floats(losses), floats(asked))
    assert not off_by_too_much(floats(losses), floats(losses))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ranks_of_many_losses_are_off_by_at_most_the_share_of_a_bin(name) -> None:
    draw = np.random.default_rng(0)
    losses = floats(DISTRIBUTIONS[name].rvs(20_000, random_state=draw))
    asked = floats(DISTRIBUTIONS[name].rvs(2_000, random_state=draw))
    assert not off_by_too_much(losses, asked)


def test_ranks_of_exponential_losses_are_off_by_less_than_a_hundredth() -> None:
    """As exact as a window of 18,000 losses; the 95 % error of 5,000 is .019."""
    losses = floats(np.random.default_rng(0).exponential(size=100_000))
    error = abs(LossHistogram(losses).cdf(losses) - LossDistribution(losses).cdf(losses))
    assert error.max() < 0.006


@given(st.lists(FLOATS, min_size=2, max_size=40))
def test_bins_ascend_with_the_loss(values) -> None:
    ascending = np.sort(floats(values))
    numbers = bins_of(ascending)
    assert (np.diff(numbers) >= 0).all()
    assert 0 <= numbers[0]
    assert numbers[-1] < NUM_BINS


def test_bins_are_at_most_a_thirtysecond_wide_and_the_same_below_0() -> None:
    edges = SMALLEST * 2.0 ** np.arange(42)
    assert edges[-1] == LARGEST
    values = floats(np.random.default_rng(0).uniform(np.log(SMALLEST), np.log(LARGEST), 100_000))
    values = np.clip(np.exp(values), SMALLEST, np.nextafter(floats(LARGEST), floats(0)))
    number = bins_of(values)
    low, high = (np.full(NUM_BINS, x) for x in (np.inf, 0.0))
    np.minimum.at(low, number, values)
    np.maximum.at(high, number, values)
    assert (high[number] <= low[number] * (1 + 1 / 32)).all()
    assert (bins_of(-values) == NUM_BINS - 1 - number).all()
    assert len(np.unique(bins_of(floats(edges)))) == 42


def test_losses_above_1_do_not_wrap_round() -> None:
    """A histogram of int(loss * bins) % bins ranks a loss of 1.05 like one of .05."""
    losses = floats([0.01, 0.5, 0.95, 1.0, 1.05, 2.5, 100.0, 20_000.0, 1e30])
    ranks = LossHistogram(losses).cdf(losses)
    assert (np.diff(ranks)[:-1] > 0).all()
    assert ranks[-1] == ranks[-2]  # both beyond the last edge
    assert ranks[0] == pytest.approx(0.5 / 9)


def test_all_kinds_of_losses_near_0_and_below_have_their_place() -> None:
    losses = floats([-1e9, -3.0, -1e-12, -0.0, 0.0, 1e-45, 1e-9, 1e-6, 5.0])
    ranks = (LossHistogram(losses).cdf(losses, "strict") * 9).round().tolist()
    assert ranks == [0, 1, 2, 2, 2, 2, 2, 7, 8]


def test_a_full_window_still_takes_new_losses() -> None:
    """Nothing saturates: after a hundred windows of drifting losses the counts are the last one."""
    window, histogram = np.zeros(0, np.float32), LossHistogram()
    draw = np.random.default_rng(0)
    for pool in range(400):
        own = floats(draw.exponential(1 + pool / 100, 256))
        window = np.concatenate([window, own])
        histogram.add(own)
        histogram.subtract(window[:-1024])
        window = window[-1024:]
        assert len(histogram) == len(window)
    np.testing.assert_array_equal(histogram.cdf(own), LossHistogram(window).cdf(own))


@pytest.mark.parametrize("count", [255, 256, 257, 300, 70_000])
def test_counts_are_compared_by_value(count) -> None:
    """`a is b` holds for the integers of a cache alone, up to 256."""
    many = LossHistogram(np.ones(count, np.float32))
    assert len(many) == count
    assert many.cdf(floats([0.5, 1, 2])).tolist() == [0, 0.5, 1]
    many.subtract(np.ones(count, np.float32))
    assert len(many) == 0


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_shards_add_up_to_the_whole_in_any_order(shards) -> None:
    losses = floats(np.random.default_rng(0).lognormal(0, 2, 10_000))
    parts = [LossHistogram(losses[shard::shards]) for shard in range(shards)]
    merged = LossHistogram()
    for part in parts[::-1]:
        merged.merge(part)
    assert len(merged) == 10_000
    whole = LossHistogram(losses)
    assert (merged.state_dict()["counts"] == whole.state_dict()["counts"]).all()
    chances = []
    for ranked in (merged, LossDistribution(losses)):  # |dp| <= beta eps where beta is at least 1
        chances.append(ranked.cdf(losses) ** 3)
    assert (abs(chances[0] - chances[1]) <= 3 * merged.bin_mass(losses) / 2 + 1e-12).all()


def test_what_cannot_be_counted_is_refused_and_changes_nothing() -> None:
    histogram = LossHistogram(floats([1, 2, 3]))
    for call in (histogram.add, histogram.subtract):
        with pytest.raises(ValueError, match="1 of 2 losses are not finite"):
            call(floats([1, np.nan]))
    with pytest.raises(ValueError, match="2 of 3 losses are none of those held"):
        histogram.subtract(floats([1, 1, 9]))
    assert histogram.cdf(floats([3])).tolist() == [2.5 / 3]
    for ask in (LossHistogram().cdf, LossHistogram().bin_mass):
        with pytest.raises(ValueError, match="no losses to rank against"):
            ask(floats([1]))


def test_a_restored_histogram_goes_on_as_the_saved_one() -> None:
    losses = floats(np.random.default_rng(0).exponential(size=500))
    saved, restored = LossHistogram(losses[:250]), LossHistogram(floats([7]))
    restored.load_state_dict(saved.state_dict())
    for each in (saved, restored):
        each.add(losses[250:])
    assert restored.cdf(losses).tolist() == saved.cdf(losses).tolist()
    for counts in (np.zeros(3), np.full(NUM_BINS, -1)):
        with pytest.raises(ValueError, match="Nothing was loaded"):
            restored.load_state_dict({"version": 1, "counts": counts})
    assert len(restored) == 500


# --- Selective-Backprop by histogram -------------------------------------------------------------


def kept_fractions(selector: SelectiveBackprop, pools: list[np.ndarray]) -> list[float]:
    ring, kept = LossRing(selector.history), []
    for number, losses in enumerate(pools):
        ids = np.arange(len(losses)) + number * 1000
        chosen = select_pool(
            selector, {ID: ids}, losses, window=ring.window(), draws=Draws(), weights_step=0
        )
        ring.record(number, losses)
        kept.append(float(chosen.selected.mean()))
    return kept


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_probabilities_by_histogram_are_within_their_bound_of_the_exact_ones(beta) -> None:
    draw = np.random.default_rng(0)
    window, own = floats(draw.exponential(size=5000)), floats(draw.exponential(size=256))
    merged = LossDistribution.merged(window, own, 5000)
    exact, binned = (
        SelectiveBackprop(beta=beta, history=5000, cdf=cdf).probability(own, merged)
        for cdf in ("exact", "histogram")
    )
    mass = LossHistogram(merged.recent(5000)).bin_mass(own)
    assert (abs(exact - binned) <= beta * mass / 2 + 1e-12).all()
    assert (exact != binned).any()


def test_class_sorted_scorers_are_ranked_against_each_other_by_histogram() -> None:
    """5.7 % of the easy rows and 44.3 % of the hard ones, as with exact ranks."""
    draw = np.random.default_rng(0)
    pools = [floats(draw.exponential((0.2, 2.0)[pool % 2], 256)) for pool in range(1000)]
    kept = kept_fractions(SelectiveBackprop(beta=3, cdf="histogram"), pools)
    assert np.mean(kept[::2]) == pytest.approx(0.057, abs=0.01)
    assert np.mean(kept[1::2]) == pytest.approx(0.443, abs=0.01)


def test_a_target_is_kept_by_histogram_under_drift() -> None:
    draw = np.random.default_rng(0)
    pools = [floats(draw.exponential(0.99**pool, 256)) for pool in range(300)]
    selector = SelectiveBackprop(target_fraction=0.25, history=8192, cdf="histogram")
    assert np.mean(kept_fractions(selector, pools)[50:]) == pytest.approx(0.25, abs=0.01)


def test_an_unknown_cdf_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SelectiveBackprop\(cdf='tree'\): must be 'exact' or"):
        SelectiveBackprop(cdf="tree")
