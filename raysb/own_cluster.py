"""A Ray cluster of our own on this machine: started without what nobody will ask.

It is there for one command: nobody looks at its dashboard, it cannot have more machines, and what
its processes write stays in their files. On a small machine each process that is left out is half
a second to two of a core at the very moment when all others start.

The hooks are private. Where Ray has renamed them, these processes start, `ray.init` looks for its
node a second later, and nothing else.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from raysb.training.bystanders import ALONE

LOOK_EVERY_S, LIMIT_S = 0.02, 5.0


@contextlib.contextmanager
def lean(verbose: bool) -> Iterator[None]:
    """Have `ray.init` start what is needed, and see at once that its node is up.

    By itself it looks again after a second, and the node takes a third of that.

    Args:
        verbose: Keep the process that brings what workers write to the terminal.
    """
    left_out = ["start_monitor", "start_api_server", *([] if verbose else ["start_log_monitor"])]
    try:
        from ray._private.node import Node
        from ray._private.state import GlobalState
    except ImportError:
        yield
        return
    owners: dict[str, Any] = {"get_node": GlobalState, **dict.fromkeys(left_out, Node)}
    before = {name: vars(owner).get(name) for name, owner in owners.items()}
    get_node: Any = before["get_node"]

    def get_node_at_once(self: Any, node_id: str) -> Any:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and all(n["NodeID"] != node_id for n in self.node_table()):
            time.sleep(LOOK_EVERY_S)
        return get_node(self, node_id)

    os.environ[ALONE] = "1"
    for name, owner in owners.items():
        if before[name] is not None:
            setattr(owner, name, get_node_at_once if name == "get_node" else _start_nothing)
    try:
        yield
    finally:
        del os.environ[ALONE]
        for name, owner in owners.items():
            if before[name] is not None:
                setattr(owner, name, before[name])


def _start_nothing(*_: Any, **__: Any) -> None:
    """In the place of a method that starts a process."""
