"""Ray Data for small pools: short waits, and a scheduling loop that does only what is needed here.

Ray Data is made for blocks of 128 MB, each of which takes seconds. A pool may take 10 ms, and the
process that schedules it some of them:

- Its loop waits until *all* running tasks have something, or for .1 s. A stream that is gated by
  age always has a task that sleeps, so every hop of every pool would take those .1 s.
- What is known of a finished block goes through a thread that waits as long, and the block moves on
  in the turn of the loop after; asked for at once, it is there.
- Three times a turn it works out who may fill how much of the object store. Where the ledger lets
  only rows be on their way that fill a small part of it, nothing follows from that.
- It takes pool numbers as fast as they come, 140 a second: 3 ms and some kilobytes for each, most
  of a core while a run begins, for pools whose turn is hours away. A few dozen ahead are enough.
- The task that gives them lasts as long as the run then. It computes next to nothing, and asks for
  no CPU; and it lies beside the scheduler, so that no other machine takes it along when it goes.

The names are private or for developers; where Ray has renamed them, the stream is slower and
nothing else.
"""

from typing import Any

import ray
from ray.data._internal.execution import metadata_fetcher, streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysb.precedence import step_back
from raysb.scoring.limits import Limits
from raysb.training.bystanders import leave_out

# Of a turn of the loop: .005 costs the process a third of a core, for the same throughput. Where
# nothing is scored pools are large, some are on their way, and no age grows while they wait.
WAIT_S, WAIT_UNSCORED_S = 0.02, 0.1
STORE_SHARE = 0.25  # of the object store that rows on their way may fill, unwatched by Ray Data
NUMBERS_AHEAD = 64  # pools that no actor has begun
NUMBER_BYTES = 8  # of a pool's number, alone in its block
_NUMBERS = "StreamingRepartition"  # Ray names an operator after what it does
# keys of the configuration that travels with an execution
_WAIT, _BYSTANDERS = "raysb/wait_s", "raysb/bystanders"
_HOOKS = ("_topology", "_backpressure_policies")


def is_bounded(
    limits: Limits, *, pool_rows: int, num_readers: int, row_bytes: float, store_bytes: float
) -> bool:
    """Whether what the ledger lets be on its way fills a small part of the object store at most.

    Args:
        limits: Those of the most scorers that there may be.
        pool_rows: Rows of a pool.
        num_readers: Readers, each with a pool in hand beside those that may be scored.
        row_bytes: Of a row as it is read.
        store_bytes: Of the object store.
    """
    rows, window = limits.max_rows, limits.window
    if limits.lockstep:
        rows, window = pool_rows + limits.global_batch, 1
    if rows is None or window is None:
        return False
    most = rows + (window + num_readers + 1) * pool_rows
    return most * row_bytes <= STORE_SHARE * store_bytes


def for_small_pools(context: Any, *, scored: bool, bounded: bool, alone: bool) -> None:
    """Set what Ray Data need not do.

    Args:
        context: The `DataContext` of the data set, before it is executed.
        scored: Pools are scored.
        bounded: See `is_bounded`; else Ray Data shares out the store, as it does by itself.
        alone: The cluster is one of our own.
    """
    context.set_config(_WAIT, WAIT_S if scored else WAIT_UNSCORED_S)
    context.memory_usage_poll_interval_s = None  # a thread for each task, that nobody asks
    if alone:
        context.set_config(_BYSTANDERS, leave_out())
    if bounded:
        context.op_resource_reservation_enabled = False
        context.set_config("backpressure_policies.enabled", [])


class SmallPools(ExecutionCallback):
    """Makes the loop's waits short and its turns cheap, in the process that does nothing else."""

    def before_execution_starts(self, executor: Any) -> None:
        """Set the constants, and what the executor works with; called by Ray Data."""
        step_back()
        context = getattr(executor, "_data_context", None)
        wait_s = WAIT_S if context is None else context.get_config(_WAIT, WAIT_S)
        for module, name in (
            (streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"),
            (metadata_fetcher, "_FETCH_WAIT_TIMEOUT_S"),
        ):
            if hasattr(module, name):
                setattr(module, name, wait_s)
        at_once = getattr(metadata_fetcher, "InlineMetadataFetcher", None)
        if at_once is not None and hasattr(executor, "_metadata_fetcher"):
            executor._metadata_fetcher = at_once()
        if all(hasattr(executor, name) for name in _HOOKS):
            found = [op for op in executor._topology if op.name.startswith(_NUMBERS)]
            for op in found:
                _asks(op)["num_cpus"] = 0
            for op in found[:1]:  # in lockstep a second one cuts batches
                _asks(op)["scheduling_strategy"] = _here()
                executor._backpressure_policies.append(_NotFarAhead(op, executor._topology[op]))


def _asks(op: Any) -> dict[str, Any]:
    """What an operator asks Ray for, for each of its tasks."""
    return getattr(op, "_ray_remote_args", {})


def _here() -> NodeAffinitySchedulingStrategy:
    """On this machine, as long as Ray can start anything on it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


class _NotFarAhead:
    """Ray Data's interface of backpressure: a few pool numbers wait, the others are not taken.

    Args:
        numbers: The operator that they come from.
        state: Ray Data's, with what it has given and nobody has taken.
    """

    name = "pools ahead"

    def __init__(self, numbers: Any, state: Any) -> None:
        self._numbers, self._state = numbers, state

    def can_add_input(self, op: Any) -> bool:
        """No limit."""
        return True

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """Asked by Ray Data before it takes what an operator has given; `None`: no limit.

        As many bytes as are said here, whatever is there. Where nothing has come for ten seconds
        Ray Data takes one number all the same.
        """
        if op is not self._numbers:
            return None
        ahead: int = self._state.total_enqueued_output_blocks()
        return NUMBER_BYTES * max(NUMBERS_AHEAD - ahead, 0)
