"""A Ray cluster of our own, without two waits of a second each: one as it starts, one as it ends.

Both hooks are private. Where Ray has renamed them, the seconds are waited and nothing else.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

LOOK_EVERY_S, LIMIT_S = 0.02, 5.0


@contextlib.contextmanager
def looking_often() -> Iterator[None]:
    """Have `ray.init` see at once that its node is up.

    By itself it looks again after a second, and the node takes a third of that.
    """
    try:
        from ray._private.state import GlobalState
    except ImportError:
        yield
        return
    before: Any = getattr(GlobalState, "get_node", None)

    def get_node(self: Any, node_id: str) -> Any:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and all(n["NodeID"] != node_id for n in self.node_table()):
            time.sleep(LOOK_EVERY_S)
        return before(self, node_id)

    if before is not None:
        GlobalState.get_node = get_node  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is not None:
            GlobalState.get_node = before  # type: ignore[method-assign]


def end_monitor() -> None:
    """End the process that would ask for machines, which this cluster cannot have.

    Ended after the others, as `ray.shutdown` does, it wants to tell them so for a second.
    """
    with contextlib.suppress(ImportError, AttributeError, KeyError):
        from ray._private import worker

        node: Any = worker._global_node
        for each in node.all_processes["monitor"]:
            each.process.kill()
