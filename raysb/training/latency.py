"""Ray Data for small pools: look at finished tasks every 20 ms, not every 100.

Its scheduling loop waits until *all* running tasks have something, or for .1 s. A stream that is
gated by age always has a task that sleeps, so every hop of every pool would take those .1 s: .25 s
from the scorer to the worker, and 11 pools a second whatever the hardware. The two constants are
private; where Ray has renamed them, the stream is slower and nothing else.
"""

from typing import Any

from ray.data._internal.execution import metadata_fetcher, streaming_executor_state
from ray.data._internal.execution.execution_callback import ExecutionCallback

WAIT_S = 0.02  # .005 costs the scheduling process a third of a core, for the same throughput


class ShortWaits(ExecutionCallback):
    """Shortens the two waits in the process that runs the execution, which runs nothing else."""

    def before_execution_starts(self, executor: Any) -> None:
        """Set the constants; called by Ray Data."""
        for module, name in (
            (streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"),
            (metadata_fetcher, "_FETCH_WAIT_TIMEOUT_S"),
        ):
            if hasattr(module, name):
                setattr(module, name, WAIT_S)
