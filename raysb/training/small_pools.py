"""Ray Data for small pools: short waits, and a scheduling loop that does only what is needed here.

Ray Data is made for blocks of 128 MB, each of which takes seconds. A pool may take 10 ms, and the
process that schedules it some of them:

- Its loop waits until *all* running tasks have something, or for .1 s. A stream that is gated by
  age always has a task that sleeps, so every hop of every pool would take those .1 s.
- What is known of a finished block goes through a thread that waits as long, and the block moves on
  in the turn of the loop after; asked for at once, it is there.
- Pool numbers become blocks as fast as the loop takes them, 3 ms of CPU time each: a run of 1,000
  epochs would spend its first minutes on that.
- Three times a turn it works out who may fill how much of the object store. Where the ledger
  bounds the rows that are on their way, nothing follows from it.

The names are private or for developers; where Ray has renamed them, the stream is slower and
nothing else.
"""

from typing import Any

from ray.data._internal.execution import metadata_fetcher, streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback

from raysb.training.bystanders import is_alone, leave_out

# Of a turn of the loop: .005 costs the process a third of a core, for the same throughput. Where
# nothing is scored pools are large, some are on their way, and no age grows while they wait.
WAIT_S, WAIT_UNSCORED_S = 0.02, 0.1
NUMBERS_AHEAD = 32  # pool numbers that wait for a reader or a scorer
# keys of the configuration that travels with an execution
_WAIT, _BYSTANDERS = "raysb/wait_s", "raysb/bystanders"


def for_small_pools(context: Any, *, scored: bool, bounded: bool) -> None:
    """Set what Ray Data need not do.

    Args:
        context: Its `DataContext`, before the execution is built.
        scored: Pools are scored.
        bounded: The ledger bounds the rows that are on their way; where it does not, Ray's share
            of the object store must.
    """
    context.set_config(_WAIT, WAIT_S if scored else WAIT_UNSCORED_S)
    if is_alone():
        context.set_config(_BYSTANDERS, leave_out())
    context.memory_usage_poll_interval_s = None  # a thread for each task, that nobody asks
    context.op_resource_reservation_enabled = not bounded
    if bounded:
        context.set_config("backpressure_policies.enabled", [])
    else:
        context.remove_config("backpressure_policies.enabled")


class SmallPools(ExecutionCallback):
    """Makes the loop's waits short and its turns cheap, in the process that does nothing else."""

    def before_execution_starts(self, executor: Any) -> None:
        """Set the constants, and what the executor works with; called by Ray Data."""
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
        policies = getattr(executor, "_backpressure_policies", None)
        topology = getattr(executor, "_topology", None)
        if policies is not None and topology is not None:
            policies.append(_NumbersInTime(topology))


class _NumbersInTime:
    """Ray Data's interface of backpressure, for the operator that makes blocks of pool numbers."""

    name = "numbers in time"

    def __init__(self, topology: Any) -> None:
        made_of_nothing = [op for op in topology if not op.input_dependencies]
        self._queues = {
            op: state.output_queue
            for op, state in topology.items()
            if any(source in made_of_nothing for source in op.input_dependencies)
        }

    def can_add_input(self, op: Any) -> bool:
        """Always."""
        return True

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """None while enough numbers wait; a block of one number may be more than is asked for."""
        queue = self._queues.get(op)
        return 0 if queue is not None and len(queue) >= NUMBERS_AHEAD else None
