"""A Ray cluster of our own on this machine: started without what nobody will ask.

It is there for one command: nobody looks at its dashboard, it cannot have more machines, and what
its processes write stays in their files. On a small machine each process that is left out is half
a second to two of a core at the very moment when all others start.

The hooks are private. Where Ray has renamed them, these processes start, `ray.init` looks for its
node a second later, and nothing else.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from raysb.training.bystanders import nothing

LOOK_EVERY_S, LIMIT_S = 0.02, 5.0
NO_DASHBOARD = b"127.0.0.1:8265"  # where Ray says that one would be, were it not left out


@contextlib.contextmanager
def lean(verbose: bool) -> Iterator[None]:
    """Have `ray.init` start what is needed, and see at once that its node is up.

    By itself it looks again after a second, and the node takes a third of that.

    Args:
        verbose: Keep the process that brings what workers write to the terminal.
    """
    try:
        from ray._private.node import Node
        from ray._private.state import GlobalState
    except ImportError:
        yield
        return
    get_node: Any = vars(GlobalState).get("get_node")

    def get_node_at_once(self: Any, node_id: str) -> Any:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and all(n["NodeID"] != node_id for n in self.node_table()):
            time.sleep(LOOK_EVERY_S)
        return get_node(self, node_id)

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(_replaced(GlobalState, "get_node", get_node_at_once))
        hooks.enter_context(_replaced(Node, "start_monitor", nothing))
        hooks.enter_context(_replaced(Node, "start_api_server", _say_where_it_would_be))
        if not verbose:
            hooks.enter_context(_replaced(Node, "start_log_monitor", nothing))
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """A method that is another one in the block; nothing where there is none of that name."""
    before = vars(owner).get(name)
    if before is None:
        yield
        return
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _say_where_it_would_be(node: Any, **_: Any) -> None:
    """In the place of the API server, which tells this and, without a dashboard, no more.

    Agents of `ray[default]` look for it once a second until it is there.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD

        store = node.get_gcs_client()
        store.internal_kv_put(
            DASHBOARD_ADDRESS.encode(), NO_DASHBOARD, True, KV_NAMESPACE_DASHBOARD
        )
