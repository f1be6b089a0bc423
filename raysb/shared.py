"""Whether the machines of a cluster share the folder that a run's checkpoints lie in."""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysb.errors import ResourceError, RunDirectoryError
from raysb.training.checkpoints import listed, not_shared
from raysb.training.folder import Token, leave_near

ANSWER_S = 60.0  # that a machine may take to start a process and look


def check_shared(
    folder: str,
    asked: Mapping[str, float],
    message: Callable[[str, Mapping[str, str]], str] = not_shared,
) -> None:
    """Refuse a folder that is another one on a machine where it is needed.

    A file is left in it, or in the nearest folder above that is there, and each machine looks for
    it; it is removed then.

    Args:
        folder: Of the checkpoints, say; it need not be there yet.
        asked: What a process that needs the folder asks of its machine, by kind: machines that have
            less are left out.
        message: What to say, of the folder and of what is wrong by machine.

    Raises:
        ResourceError: A machine does not answer.
        RunDirectoryError: The folder cannot be written, or is not shared.
    """
    others = _others(asked)
    if not others:
        return
    token = leave_near(folder)
    try:
        wrong = _unseen(token, others)
    finally:
        token.remove()
    if wrong:
        raise RunDirectoryError(message(folder, wrong))


def audit_not_shared(folder: str, machines: Mapping[str, str]) -> str:
    """What to say of machines on which a run's directory is another one, to which it audits."""
    return (
        f"train.audit=true: the workers note every row in {folder}/audit, which is not the same "
        f"folder on every machine with a worker ({listed(machines)}): what they note there would "
        "be missing. Put run.dir on a shared disk, or leave train.audit out"
    )


def _others(asked: Mapping[str, float]) -> dict[str, str]:
    """Names of the machines that have what is asked for, by Ray's id; without the driver's."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {
        node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        for node in nodes
        if node["Alive"]
        and node["NodeID"] != here
        and all(node["Resources"].get(kind, 0.0) >= amount for kind, amount in asked.items())
    }


def _unseen(token: Token, machines: Mapping[str, str]) -> dict[str, str]:
    """What is wrong on which machine."""
    looks = {
        _look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(token): name
        for node, name in machines.items()
    }
    done, late = ray.wait(list(looks), num_returns=len(looks), timeout=ANSWER_S)
    if late:
        raise ResourceError(
            f"no answer in {ANSWER_S:g} s from {', '.join(looks[each] for each in late)}: it was "
            "asked whether it shares the checkpoints' folder. Ray could start no process there; "
            "look at its raylet's log, or take it out of the cluster"
        )
    found = {looks[each]: ray.get(each) for each in done}
    return {name: why for name, why in found.items() if why is not None}


@ray.remote
def _look(token: Token) -> str | None:
    return token.unseen()
