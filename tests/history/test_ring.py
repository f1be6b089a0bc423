"""The ring equals a plain deque that is fed in pool order."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.history.ring import LossRing


def expected(pools: dict[int, np.ndarray], capacity: int) -> list[float]:
    """The window, from a deque fed with the finite losses of all pools in pool order."""
    window: deque[float] = deque(maxlen=capacity)
    for pool in sorted(pools):
        window.extend(x for x in pools[pool].tolist() if np.isfinite(x))
    return list(window)


def losses(seed: int, size: int, nonfinite: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).exponential(size=size).astype(np.float32)
    values[:nonfinite] = [np.nan, np.inf, -np.inf][nonfinite % 3]
    return values


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 99)), max_size=40),
    st.lists(st.integers(0, 25), min_size=13, max_size=13),
)
def test_the_window_is_that_of_a_deque_in_pool_order_whatever_the_arrival(
    capacity, arrivals, sizes
) -> None:
    """Pools arrive in any order and any number of times, with other losses each time."""
    ring, pools = LossRing(capacity), {}
    for pool, seed in arrivals:
        pools[pool] = losses(seed, sizes[pool])
        ring.record(pool, pools[pool])
        assert ring.window().tolist() == expected(pools, capacity)
        assert len(ring) == len(ring.window())


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8)), max_size=30))
def test_replays_may_take_losses_away_by_turning_them_nonfinite(replays) -> None:
    capacity, pools = 110, {}  # no more than R losses can vanish: 13 pools x 8
    ring = LossRing(capacity)
    for pool in range(13):
        pools[pool] = losses(pool, 40)
        ring.record(pool, pools[pool])
    for pool, nonfinite in replays:
        pools[pool] = losses(pool, 40, nonfinite)
        ring.record(pool, pools[pool])
        assert ring.window().tolist() == expected(pools, capacity)


def test_memory_does_not_grow_with_the_run() -> None:
    ring = LossRing(1024)
    for pool in range(1000):
        ring.record(pool, losses(pool, 256))
    assert ring.metrics() == {"num_losses": 1024, "num_kept": 2048 + 256 - 256}
    for pool in range(1000, 1100):
        ring.record(pool, np.full(256, np.nan, np.float32))
    assert ring.metrics()["num_kept"] == 2048


def test_the_window_is_a_cached_read_only_array_of_its_own() -> None:
    given = losses(0, 8)
    ring = LossRing(4)
    ring.record(0, given)
    window = ring.window()
    given[:] = 9
    assert ring.window() is window
    assert window.max() < 9
    assert not window.flags.writeable
    ring.record(1, losses(1, 2))
    assert ring.window().tolist() != window.tolist()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 30)), max_size=12), st.integers(0, 11))
def test_a_restored_ring_goes_on_like_the_saved_one(arrivals, cut) -> None:
    ring, restored = LossRing(32), LossRing(32)
    for pool, size in arrivals[:cut]:
        ring.record(pool, losses(pool, size))
    restored.load_state_dict(ring.state_dict())
    for pool, size in arrivals[cut:]:
        ring.record(pool, losses(pool + 7, size))
        restored.record(pool, losses(pool + 7, size))
    assert restored.window().tolist() == ring.window().tolist()
    assert restored.metrics() == ring.metrics()


def test_a_state_of_another_kind_is_refused_and_nothing_is_loaded() -> None:
    ring = LossRing(4)
    ring.record(0, losses(0, 3))
    before = ring.window().tolist()
    state = ring.state_dict()
    with pytest.raises(ValueError, match="version 2, this release"):
        ring.load_state_dict({**state, "version": 2})
    with pytest.raises(ValueError, match=r"unknown \['extra'\]"):
        ring.load_state_dict({**state, "extra": 0})
    with pytest.raises(ValueError, match="capacity=8, this ring has capacity=4"):
        ring.load_state_dict(LossRing(8).state_dict())
    assert ring.window().tolist() == before


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LossRing\(capacity=0\)"):
        LossRing(0)
