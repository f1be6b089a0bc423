"""What Ray Data's scheduling loop is told for small pools, and when it is not."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.data import DataContext
from ray.data._internal.execution import metadata_fetcher, streaming_executor_state

from raysb.scoring.limits import limits_for
from raysb.training import small_pools
from raysb.training.reader_pool import ReaderPool
from raysb.training.small_pools import (
    NUMBER_BYTES,
    NUMBERS_AHEAD,
    STORE_SHARE,
    WAIT_S,
    WAIT_UNSCORED_S,
    SmallPools,
    for_small_pools,
    is_bounded,
)

POLICIES = "backpressure_policies.enabled"


class Pool:
    """Ray Data's pool of actors, as far as it is used."""

    def __init__(self, size: int, most: int) -> None:
        self.size, self.most = size, most

    def current_size(self) -> int:
        return self.size

    def max_size(self) -> int:
        return self.most

    def scale(self, request: Any) -> None:
        self.size += request.delta


class Operator:
    """Ray Data's, as far as it is used."""

    def __init__(self, name: str, pool: Pool | None = None) -> None:
        self.name, self.pool = name, pool
        self._ray_remote_args: dict[str, Any] = {"num_cpus": 1}
        self.metrics = SimpleNamespace(num_outputs_taken=0)

    def get_autoscaling_actor_pools(self) -> list[Pool | None]:
        return [self.pool]


class State:
    """Ray Data's of an operator, as far as it is used."""

    ahead = 0

    def total_enqueued_output_blocks(self) -> int:
        return self.ahead


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pool numbers, readers, scorers and, as in lockstep, a cut into batches."""
    for module, name in (
        (streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"),
        (metadata_fetcher, "_FETCH_WAIT_TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # and back after the test
    monkeypatch.setattr(small_pools, "step_back", lambda: None)  # this process goes on
    monkeypatch.setattr(small_pools, "_here", lambda: "here")
    readers = Operator("MapBatches(PoolReader)", Pool(1, 3))
    scorers = Operator("MapBatches(PoolScorer)", Pool(1, 1))
    cut = Operator("StreamingRepartition")
    numbers = Operator("StreamingRepartition")
    operators = (Operator("Input"), numbers, readers, scorers, cut)
    return SimpleNamespace(
        operators=operators,
        _topology={op: State() for op in operators},
        _backpressure_policies=[],
        _output_node=(cut, None),
        _metadata_fetcher=None,
        _data_context=DataContext(),
    )


@pytest.mark.parametrize(("scored", "wait_s"), [(True, WAIT_S), (False, WAIT_UNSCORED_S)])
def test_the_loop_waits_as_long_as_the_stream_can(executor, scored, wait_s) -> None:
    for_small_pools(executor._data_context, scored=scored, bounded=True, alone=False)
    SmallPools().before_execution_starts(executor)
    assert streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == wait_s
    assert isinstance(executor._metadata_fetcher, metadata_fetcher.InlineMetadataFetcher)


def test_ray_shares_out_its_store_unless_the_ledger_bounds_what_is_in_it() -> None:
    as_ray_has_it = DataContext()
    for bounded, wanted in ((True, (False, [])), (False, (True, None))):
        context = DataContext()
        for_small_pools(context, scored=True, bounded=bounded, alone=False)
        assert (context.op_resource_reservation_enabled, context.get_config(POLICIES)) == wanted
    theirs = as_ray_has_it.op_resource_reservation_enabled, as_ray_has_it.get_config(POLICIES)
    assert theirs == (True, None)


@pytest.mark.parametrize("alone", [True, False])
def test_bystanders_are_left_out_of_a_cluster_of_ones_own_alone(monkeypatch, alone) -> None:
    monkeypatch.setattr(small_pools, "leave_out", lambda: "left out")
    context = DataContext()
    for_small_pools(context, scored=True, bounded=True, alone=alone)
    assert context.get_config("raysb/bystanders", None) == ("left out" if alone else None)


@pytest.mark.parametrize(
    ("staleness", "rows"),
    [
        # K - 1 + S n rows: 63 + 2 x 100 + 1 selected, S + 1 pools that are read, one at each reader
        ("auto", 64 + 2 * 100 + (2 + 1 + 2) * 100),
        (0, 100 + 64 + (1 + 1 + 2) * 100),  # a pool, and what is left of a batch
    ],
)
def test_what_is_bounded_is_the_bytes_of_the_rows_on_their_way(staleness, rows) -> None:
    limits = limits_for(staleness, pool_rows=100, batch_size=64, num_workers=1, num_actors=1)
    sizes = {"pool_rows": 100, "num_readers": 2, "row_bytes": 3.0}
    just_enough = rows * 3.0 / STORE_SHARE
    assert is_bounded(limits, **sizes, store_bytes=just_enough)
    assert not is_bounded(limits, **sizes, store_bytes=just_enough - 1)


def test_without_a_bound_on_ages_nothing_bounds_the_rows() -> None:
    limits = limits_for(None, pool_rows=100, batch_size=64, num_workers=1, num_actors=1)
    sizes = {"pool_rows": 100, "num_readers": 2, "row_bytes": 1.0}
    assert not is_bounded(limits, **sizes, store_bytes=1e15)


def test_only_pool_numbers_are_held_back_and_only_while_enough_are_ahead(executor) -> None:
    SmallPools().before_execution_starts(executor)
    (policy,) = executor._backpressure_policies
    _, numbers, *others = executor.operators
    for state in executor._topology.values():
        state.ahead = NUMBERS_AHEAD
    assert policy.max_task_output_bytes_to_read(numbers) == 0
    assert [policy.max_task_output_bytes_to_read(op) for op in others] == [None] * 3
    executor._topology[numbers].ahead = NUMBERS_AHEAD - 9
    assert policy.max_task_output_bytes_to_read(numbers) == 9 * NUMBER_BYTES
    executor._topology[numbers].ahead = NUMBERS_AHEAD + 1  # Ray Data takes one where nothing runs
    assert policy.max_task_output_bytes_to_read(numbers) == 0
    assert all(policy.can_add_input(op) for op in executor.operators)


def test_pool_numbers_ask_for_no_cpu_and_come_from_this_machine(executor) -> None:
    SmallPools().before_execution_starts(executor)
    _, numbers, readers, scorers, cut = (op._ray_remote_args for op in executor.operators)
    assert numbers == {"num_cpus": 0, "scheduling_strategy": "here"}
    assert (cut, readers, scorers) == ({"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1})


def test_where_ray_has_renamed_what_is_needed_numbers_come_as_they_will(executor) -> None:
    for op in executor.operators:
        del op._ray_remote_args
    SmallPools().before_execution_starts(executor)  # no error
    del executor._backpressure_policies
    SmallPools().before_execution_starts(executor)  # no error


def test_the_other_readers_come_when_the_first_rows_have_come_out_and_once(executor) -> None:
    readers, scorers = executor.operators[2].pool, executor.operators[3].pool
    callback = ReaderPool()
    callback.before_execution_starts(executor)
    executor.operators[2].metrics.num_outputs_taken = 1  # read, and not yet scored
    callback.on_execution_step(executor)
    assert readers.size == 1
    executor.operators[-1].metrics.num_outputs_taken = 1
    callback.on_execution_step(executor)
    assert (readers.size, scorers.size) == (3, 1)
    readers.size = 1  # Ray lets readers go that have nothing left to do
    callback.on_execution_step(executor)
    assert readers.size == 1


def test_a_stream_whose_scorers_read_has_no_readers_to_add(executor) -> None:
    del executor._topology[executor.operators[2]]
    callback = ReaderPool()
    callback.before_execution_starts(executor)
    executor.operators[-1].metrics.num_outputs_taken = 1
    callback.on_execution_step(executor)
    assert executor.operators[3].pool.size == 1
