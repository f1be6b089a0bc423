"""All readers but the first start when the first pool has passed the whole stream.

One reader brings what the first step needs; on a small machine each further one would take two
seconds of a core from the scorer and the worker that are starting beside it.

The hooks are private or for developers: where Ray has renamed them, one reader reads.
"""

from typing import Any

from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import ActorPoolScalingRequest
from ray.data._internal.execution.execution_callback import ExecutionCallback

_HOOKS = ("_topology", "_output_node")
_READERS = "PoolReader"  # Ray names an operator after its class


class ReaderPool(ExecutionCallback):
    """Brings the readers to their number, in the process that schedules the stream."""

    _op: Any = None

    def before_execution_starts(self, executor: Any) -> None:
        """Find the readers; called by Ray Data."""
        if all(hasattr(executor, name) for name in _HOOKS):
            found = [op for op in executor._topology if _READERS in op.name]
            self._op = found[0] if found else None

    def on_execution_step(self, executor: Any) -> None:
        """Add the others once; called by Ray Data every few hundredths of a second."""
        if self._op is None or not executor._output_node[0].metrics.num_outputs_taken:
            return
        readers, self._op = self._op, None
        if getattr(readers, "_inputs_complete", False):
            return  # at the end Ray lets readers go that have nothing left to do
        (pool,) = readers.get_autoscaling_actor_pools()
        if (more := pool.max_size() - pool.current_size()) > 0:
            pool.scale(ActorPoolScalingRequest.upscale(delta=more, reason="the stream has begun"))
