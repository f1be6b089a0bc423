import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.source.plan import PoolPlan

plans = st.builds(
    PoolPlan,
    num_rows=st.integers(1, 50),
    pool_rows=st.integers(1, 60),
    epochs=st.integers(1, 4),
)


@given(plans)
def test_pools_in_order_list_the_rows_of_each_epoch_in_order(plan: PoolPlan) -> None:
    rows = [
        (epoch, row)
        for epoch, start, stop in map(plan.locate, range(plan.num_pools))
        for row in range(start, stop)
    ]
    assert rows == [(e, row) for e in range(plan.epochs) for row in range(plan.num_rows)]


@given(plans)
def test_no_pool_is_empty_or_above_its_size(plan: PoolPlan) -> None:
    sizes = [stop - start for _, start, stop in map(plan.locate, range(plan.num_pools))]
    assert min(sizes) >= 1
    assert max(sizes) <= plan.pool_rows


@given(plans)
def test_rows_before_and_epoch_of_agree_with_counting(plan: PoolPlan) -> None:
    spans = [plan.locate(pool) for pool in range(plan.num_pools)]
    before = np.cumsum([0] + [stop - start for _, start, stop in spans])
    pools = np.arange(plan.num_pools + 1)
    assert np.array_equal(plan.rows_before(pools), before)
    assert [plan.rows_before(int(pool)) for pool in pools] == before.tolist()
    assert plan.epoch_of(pools[:-1]).tolist() == [epoch for epoch, _, _ in spans]


def test_a_million_epochs_cost_nothing() -> None:
    plan = PoolPlan(num_rows=10**9, pool_rows=256, epochs=10**6)
    assert plan.locate(plan.num_pools - 1) == (10**6 - 1, 10**9 - 256, 10**9)
    assert plan.rows_before(plan.num_pools) == 10**15


def test_pools_outside_the_run_are_refused() -> None:
    plan = PoolPlan(num_rows=10, pool_rows=3, epochs=2)
    for pool in (-1, 8):
        with pytest.raises(IndexError, match="0 to 7"):
            plan.locate(pool)


@pytest.mark.parametrize("name", ["num_rows", "pool_rows", "epochs"])
def test_numbers_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        PoolPlan(**{"num_rows": 1, "pool_rows": 1, "epochs": 1, name: 0})
