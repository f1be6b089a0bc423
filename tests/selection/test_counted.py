"""A window that is passed on as counts: those of the last losses, whatever order pools come in."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.history.ring import LossRing
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop
from raysb.selection.counted import CountedRing
from raysb.selection.distribution import LossDistribution
from raysb.selection.histogram import NUM_BINS, bins_of
from raysb.selection.stage import select_pool
from raysb.selection.target import RECENT_LOSSES

POOLS = st.lists(
    st.tuples(
        st.integers(0, 12),  # numbers come in any order, and again
        st.lists(st.floats(-4, 4, width=32) | st.just(float("nan")), max_size=9),
    ),
    max_size=40,
)


def newest_pools(pools, capacity):
    """The naive form: every pool is kept, and the newest whole ones that hold R are counted."""
    found: list[float] = []
    for pool in sorted(pools, reverse=True):
        if len(found) >= capacity:
            break
        found = pools[pool] + found
    return np.array(found, np.float32)


def counts_of(histogram):
    return histogram.state_dict()["counts"]


def all_counts(window):
    whole = LossDistribution(window.recent, window.earlier).histogram()
    return counts_of(whole)


@given(POOLS, st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_the_window_counts_the_newest_whole_pools_that_hold_r_losses(arrivals, capacity) -> None:
    ring, known = CountedRing(capacity), {}
    for pool, losses in arrivals:
        gone = {number for number in known if number not in ring._losses}
        if pool in gone or (known and pool < min(known.keys() - gone, default=0)):
            continue  # out of the window for good: the next test
        finite = [loss for loss in losses if np.isfinite(loss)][-capacity:]
        if len(finite) < len(known.get(pool, [])):
            continue  # a replay that takes losses away: what left the window is not there again
        ring.record(pool, np.array(losses, np.float32))
        known[pool] = finite
        expected = newest_pools({p: v for p, v in known.items() if v}, capacity)
        oracle = np.bincount(bins_of(expected), minlength=NUM_BINS)
        np.testing.assert_array_equal(all_counts(ring.window()), oracle)
        assert len(ring) == len(expected)


def test_a_pool_that_is_too_old_changes_nothing() -> None:
    ring = CountedRing(10)
    for pool in range(5, 9):
        ring.record(pool, np.full(5, pool, np.float32))
    before = all_counts(ring.window())
    ring.record(2, np.full(5, 100, np.float32))
    np.testing.assert_array_equal(all_counts(ring.window()), before)


@pytest.mark.parametrize("ties", ["mid", "strict"])
def test_ranks_are_those_among_the_losses_themselves_to_the_mass_of_a_bin(ties) -> None:
    rng = np.random.default_rng(0)
    counted, exact = CountedRing(50_000), LossRing(50_000)
    for pool in range(200):
        losses = rng.lognormal(size=500).astype(np.float32)
        counted.record(pool, losses)
        exact.record(pool, losses)
    own = rng.lognormal(size=300).astype(np.float32)
    theirs = LossDistribution(np.concatenate([exact.window(), own]))
    ours = LossDistribution.merged(counted.window(), own, 50_000)
    assert len(ours) == len(theirs) == 50_300
    off = np.abs(ours.histogram().cdf(own, ties) - theirs.cdf(own, ties))
    mass = ours.histogram().bin_mass(own)
    assert (off <= (mass / 2 if ties == "mid" else mass) + 1e-12).all()
    assert off.max() > 1e-4  # they are counts indeed
    finer = np.abs(ours.cdf(own, ties) - theirs.cdf(own, ties))
    assert (finer <= mass + 1e-12).all()
    assert finer.max() > 0


def test_what_is_passed_on_does_not_grow_with_the_history() -> None:
    sizes = []
    for capacity in (10_000, 1_000_000):
        ring = CountedRing(capacity)
        for pool in range(capacity // 2_000):
            ring.record(pool, np.random.default_rng(pool).exponential(size=2_000))
        window = ring.window()
        assert len(window.recent) >= RECENT_LOSSES
        assert len(window.earlier) + len(window.recent) == capacity
        sizes.append(len(pickle.dumps(window)))
    assert sizes[1] <= sizes[0] + 100
    assert sizes[1] < 8 * NUM_BINS + 4 * 2_000 + 1_000


def test_a_target_is_kept_by_counts_as_by_losses() -> None:
    """The recent losses that the exponent is solved for are passed on one by one."""
    kept = {}
    for cdf, ring in (("exact", LossRing(20_000)), ("histogram", CountedRing(20_000))):
        selector = SelectiveBackprop(history=20_000, target_fraction=0.25, cdf=cdf)
        share, rng = 0, np.random.default_rng(1)
        for pool in range(100):
            losses = (rng.exponential(size=500) * 0.97**pool).astype(np.float32)  # they fall
            ids = np.arange(500) + 500 * pool
            chosen = select_pool(
                selector,
                {"id": ids, "pool": np.full(500, pool)},
                losses,
                window=ring.window(),
                draws=Draws(seed=0, epoch=0),
                weights_step=0,
            )
            ring.record(pool, losses)
            share += chosen.selected.sum() if pool >= 20 else 0
        kept[cdf] = share / 40_000
    # 40,000 draws of .25 each spread by .0022
    assert abs(kept["exact"] - 0.25) < 0.01
    assert abs(kept["histogram"] - kept["exact"]) < 0.005


def test_a_state_brings_the_counts_back_also_one_of_single_losses() -> None:
    rng, ring, single = np.random.default_rng(2), CountedRing(1_000), LossRing(1_000)
    for pool in range(40):
        losses = rng.normal(size=90).astype(np.float32)
        ring.record(pool, losses)
        single.record(pool, losses)
    for state in (ring.state_dict(), single.state_dict()):
        other = CountedRing(1_000)
        other.load_state_dict(state)
        np.testing.assert_array_equal(all_counts(other.window()), all_counts(ring.window()))
        more = rng.normal(size=90).astype(np.float32)
        for each in (ring, other):
            each.record(40, more)
        np.testing.assert_array_equal(all_counts(other.window()), all_counts(ring.window()))
        ring.load_state_dict(single.state_dict())


def test_only_what_ranks_among_counts_is_sent_counts() -> None:
    assert SelectiveBackprop(cdf="histogram").counts_losses
    assert not SelectiveBackprop().counts_losses
