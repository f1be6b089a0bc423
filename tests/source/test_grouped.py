import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.errors import DataError
from raysb.schema import Batch
from raysb.source.grouped import GroupedSource
from raysb.source.plan import PoolPlan

sizes = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum)


class Groups:
    """Groups of consecutive ids, and how often each was loaded."""

    def __init__(self, rows: list[int]) -> None:
        self.starts = np.cumsum([0, *rows])
        self.loads: Counter[int] = Counter()

    def load(self, group: int) -> Batch:
        self.loads[group] += 1
        ids = np.arange(self.starts[group], self.starts[group + 1])
        return {"id": ids, "group": np.full(len(ids), group)}


@given(sizes, st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**31))
def test_every_id_exactly_once_per_epoch_and_every_group_loaded_once(
    rows: list[int], window: int, pool: int, seed: int
) -> None:
    groups = Groups(rows)
    source = GroupedSource(rows, groups.load, seed=seed, window=window)
    plan = PoolPlan(num_rows=source.num_rows, pool_rows=pool, epochs=1)
    for epoch in (0, 7):
        groups.loads.clear()
        pieces = [
            source.read(epoch, *plan.locate(number)[1:])["id"] for number in range(plan.num_pools)
        ]
        ids = np.concatenate(pieces)
        assert sorted(ids.tolist()) == list(range(sum(rows)))
        assert max(groups.loads.values()) == 1
        whole = GroupedSource(rows, groups.load, seed=seed, window=window)
        assert np.array_equal(ids, whole.read(epoch, 0, sum(rows))["id"])


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_rows_stay_within_their_window(size: int, count: int, window: int, seed: int) -> None:
    rows = [size] * count
    source = GroupedSource(rows, Groups(rows).load, seed=seed, window=window)
    order = source.read(2, 0, sum(rows))["group"]
    for start in range(0, len(order), size * window):
        span = order[start : start + size * window]
        assert set(Counter(span.tolist()).values()) == {size}  # whole groups, none cut
        assert len(set(span.tolist())) == len(span) // size


def test_groups_and_the_rows_within_them_are_shuffled() -> None:
    rows = [50] * 20
    source = GroupedSource(rows, Groups(rows).load, seed=1, window=4)
    order = source.read(0, 0, 1000)
    windows = [set(order["group"][start : start + 200].tolist()) for start in range(0, 1000, 200)]
    assert all(len(window) == 4 for window in windows)
    assert windows != [set(range(start, start + 4)) for start in range(0, 20, 4)]
    assert len(set(order["group"][:50].tolist())) == 4  # mixed, not one after the other
    assert not np.array_equal(order["id"], source.read(1, 0, 1000)["id"])


def test_one_group_is_shuffled_anew_each_epoch() -> None:
    source = GroupedSource([100], Groups([100]).load, seed=1, window=1)
    orders = [source.read(epoch, 0, 100)["id"].tolist() for epoch in (0, 1)]
    assert orders[0] != orders[1]
    assert list(range(100)) not in orders


@pytest.mark.parametrize("epoch", [None, 0])
def test_a_seek_loads_no_more_than_the_windows_it_needs(epoch: int | None) -> None:
    groups = Groups([10] * 12)
    source = GroupedSource([10] * 12, groups.load, seed=1, window=3)
    source.read(epoch, 60, 90)
    assert len(groups.loads) == 3


@given(sizes, st.integers(1, 6), st.data())
def test_any_span_in_any_process_is_that_part_of_the_epoch(
    rows: list[int], window: int, data: st.DataObject
) -> None:
    source = GroupedSource(rows, Groups(rows).load, seed=4, window=window)
    whole = source.read(5, 0, sum(rows))["id"]
    other = pickle.loads(pickle.dumps(source))
    for _ in range(4):
        start = data.draw(st.integers(0, sum(rows)))
        stop = data.draw(st.integers(start, sum(rows)))
        assert np.array_equal(other.read(5, start, stop)["id"], whole[start:stop])


@given(sizes, st.integers(1, 6))
def test_no_epoch_is_the_order_of_the_groups(rows: list[int], window: int) -> None:
    source = GroupedSource(rows, Groups(rows).load, seed=4, window=window)
    assert source.read(None, 0, sum(rows))["id"].tolist() == list(range(sum(rows)))


def test_an_old_epoch_and_the_natural_order_may_be_read_in_between() -> None:
    rows = [5] * 8
    source = GroupedSource(rows, Groups(rows).load, seed=4, window=2)
    before = source.read(0, 13, 17)["id"]
    source.read(None, 0, 40)
    source.read(1, 0, 40)
    assert np.array_equal(source.read(0, 13, 17)["id"], before)


def test_a_pickle_holds_no_rows() -> None:
    rows = [100_000]
    source = GroupedSource(rows, Groups(rows).load, seed=0, window=1)
    source.read(0, 0, 10)
    assert len(pickle.dumps(source)) < 10_000


def test_no_rows_and_no_window_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        GroupedSource([0, 0], Groups([0, 0]).load, seed=0, window=1)
    with pytest.raises(ValueError, match="window=0"):
        GroupedSource([1], Groups([1]).load, seed=0, window=0)
    with pytest.raises(IndexError, match="0 to 1"):
        GroupedSource([1], Groups([1]).load, seed=0, window=1).read(0, 0, 2)
