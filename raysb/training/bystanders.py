"""Actors of Ray Data and Ray Train that nobody needs on a cluster of our own: left out there.

One keeps figures for the dashboard, which is not there, one the machine on which each actor lies,
of which there is one, and one shares out machines among several users, of which there is one. On
two cores they take 4 s of CPU time of every start. On a cluster that was joined they stay.

The hooks are private: where Ray has renamed them, the actors are started.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

_clusters = [False]  # of the blocks that are open, whether the cluster is one of our own


@contextlib.contextmanager
def driving(*, own: bool) -> Iterator[None]:
    """What is started in the block runs on a cluster of our own, or on one that was joined.

    Known to this process alone: another one may join a cluster that was ours.
    """
    _clusters.append(own)
    try:
        yield
    finally:
        _clusters.pop()


def is_alone() -> bool:
    """Whether this process drives a cluster of our own."""
    return _clusters[-1]


class Bystanders:
    """In Ray Data's context: the process where it arrives starts no such actors.

    They are started by the process that schedules an execution, which is Ray's: out of reach but
    for what travels there.
    """

    def __reduce__(self) -> Any:
        return leave_out, ()


def leave_out() -> Bystanders:
    """Let this process start none of them; what it would tell them is told to nobody."""
    with contextlib.suppress(ImportError):
        from ray.data._internal import stats

        manager: Any = getattr(stats, "_StatsManager", None)
        for told in (
            "register_dataset_to_stats_actor",
            "update_execution_metrics",
            "update_iteration_metrics",
        ):
            if hasattr(manager, told):
                setattr(manager, told, staticmethod(nothing))
    with contextlib.suppress(ImportError):
        from ray.data._internal.execution.operators import actor_pool_map_operator as actor_pool

        hooks: Any = actor_pool
        if hasattr(hooks, "get_actor_locations"):
            hooks.get_actor_locations = _where_they_were
            hooks.get_or_create_actor_location_tracker = _NoTracker
    with contextlib.suppress(ImportError):
        from ray.data._internal.cluster_autoscaler import DefaultAutoscalingCoordinator

        machines: Any = DefaultAutoscalingCoordinator
        if hasattr(machines, "get_reserved_resources"):
            machines.request_resources = machines.cancel_request = nothing
            machines.get_reserved_resources = _what_there_is
    return Bystanders()


def asks_nobody(part: Any) -> Any:
    """Part of a train controller; a policy for a fixed number of workers asks for no machines."""
    if type(part).__name__ == "FixedScalingPolicy":
        for ask in (
            "_send_resource_request",
            "_maybe_send_resource_request",
            "_cancel_resource_request",
        ):
            if hasattr(part, ask):
                setattr(part, ask, nothing)
    return part


def no_datasets(workers: list[Any]) -> dict[str, list[Any]]:
    """What Ray Train's callback for datasets gives to each worker, where there are none."""
    return {"dataset_shard_provider": [None] * len(workers)}


def nothing(*_: Any, **__: Any) -> None:
    """In the place of what asks or tells an actor, or starts a process."""


def _where_they_were(_: Any) -> dict[str, str]:
    """No news of where actors lie: Ray Data then takes them for where they were started."""
    return {}


def _what_there_is(_: Any) -> dict[str, dict[str, float]]:
    """What each machine has, by its id: nobody shares it out among several users."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: dict(node["Resources"]) for node in nodes if node["Alive"]}


class _NoTracker:
    """In the place of the handle through which a scorer tells on which machine it lies."""

    class _Method:
        remote = staticmethod(nothing)

    update_actor_location = _Method()
