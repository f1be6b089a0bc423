"""Ray itself: joined or started, quiet, and asked first whether what a run needs is there."""

import contextlib
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raysb.collecting import collecting_rarely
from raysb.errors import ResourceError
from raysb.interrupt import keeping_handlers
from raysb.joining import join
from raysb.own_cluster import lean
from raysb.packing import TRAIN_WORKERS, Processes, misplaced
from raysb.training.bystanders import driving

NAMESPACE = "raysb"
# Quiet, and quick to answer: Ray Train asks its workers every .2 s instead of every 2 s, so that
# saving a checkpoint does not wait 2 s for the controller. Ray's workers are as nice as the driver.
ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # see `precedence`
}
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
KINDS = ("CPU", "GPU", "memory", "object_store_memory")  # of Ray's own; others are custom
SPARE_CPUS = 3  # logical, on a cluster of our own: for readers, which mostly wait


def prepare_environment(verbose: bool = False) -> None:
    """Set what Ray reads when it is imported; what the user has set stays."""
    for name, value in {**ENVIRONMENT, **({} if verbose else QUIET)}.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def connected(
    address: str | None = None, *, num_gpus: int | None = None, verbose: bool = False
) -> Iterator[Any]:
    """A connection to Ray: the one at hand, the cluster at the address, or one of our own.

    A cluster that happens to run on this machine is never joined by itself: only with an address,
    or inside a job, where Ray sets RAY_ADDRESS. One of our own ends with the block.

    Raises:
        ResourceError: No address is given and a cluster runs on this machine, or the one at the
            address cannot be joined.
    """
    prepare_environment(verbose)
    with collecting_rarely():
        import ray

    if ray.is_initialized():
        yield ray
        return
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted is None:
        refuse_company()
    address = wanted or "local"
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if not verbose:
        for name in ("ray", "ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
    with driving(own=address == "local"):
        try:
            # Ray's own handlers would end the driver with its own exit code
            with keeping_handlers(), contextlib.nullcontext() if verbose else without_log_level():
                if address == "local":
                    with lean(verbose):
                        ray.init(
                            address="local",
                            num_cpus=own_cpus(),
                            num_gpus=num_gpus,
                            include_dashboard=False,
                            namespace=NAMESPACE,
                            **quiet,
                        )
                else:
                    join(address, namespace=NAMESPACE, **quiet)
            yield ray
        finally:
            ray.shutdown()


@contextlib.contextmanager
def without_log_level() -> Iterator[None]:
    """Pass on what the block writes to standard error when it ends, but for one line.

    Ray's native part says there which level its log has, because we set it, at any level.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            os.write(2, b"".join(line for line in held if b"Set ray log level" not in line))


def refuse_company() -> None:
    """Raise if a Ray cluster runs on this machine and nobody said whether it is meant.

    Raises:
        ResourceError: There is one.
    """
    if running := running_clusters():
        raise ResourceError(
            f"a Ray cluster runs on this machine ({', '.join(running)}). Two clusters on one "
            "machine take each other's workers for their own: join it with --address "
            f"{running[0]}, end it, or start one of your own beside it with --address local"
        )


def running_clusters() -> list[str]:
    """Addresses of the Ray clusters on this machine, whoever started them."""
    try:
        from ray._private.services import find_gcs_addresses
    except ImportError:  # private: without it, a second cluster is started as Ray would
        return []
    return sorted(find_gcs_addresses())  # type: ignore[no-untyped-call]


def own_cpus() -> int:
    """Logical CPUs of a cluster of our own on this machine."""
    return (os.cpu_count() or 1) + SPARE_CPUS


def own_gpus() -> int:
    """GPUs that a cluster of our own would count on this machine."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        from ray._private.accelerators import NvidiaGPUAcceleratorManager as Nvidia
    except ImportError:  # private
        return 0
    count = int(Nvidia.get_current_node_num_accelerators())
    return count if visible is None else min(count, len(list(filter(None, visible.split(",")))))


def object_store_bytes() -> tuple[int, int] | None:
    """What the object store of a cluster of our own would take, and what /dev/shm has free."""
    try:
        from ray._private.utils import (
            estimate_available_memory,
            get_shared_memory_bytes,
            resolve_object_store_memory,
        )

        wanted = resolve_object_store_memory(estimate_available_memory())  # type: ignore[no-untyped-call]
        return int(wanted), int(get_shared_memory_bytes())  # type: ignore[no-untyped-call]
    except (ImportError, OSError, AssertionError):  # private, and Linux only
        return None


def cluster_nodes() -> list[dict[str, float]]:
    """What each machine of the cluster at hand has, by kind."""
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [dict(node["Resources"]) for node in nodes if node["Alive"]]


def cluster_resources() -> dict[str, float]:
    """What the cluster at hand has in all, by kind."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return there


def total(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum over machines, by kind."""
    return {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}


def check_placement(
    processes: Mapping[str, Processes], *, nodes: Sequence[Mapping[str, float]]
) -> None:
    """Refuse what would otherwise wait for ever without a word.

    Args:
        processes: By the flag that asks for them.
        nodes: What each machine has, from `cluster_nodes`.

    Raises:
        ResourceError: The sum is more than there is, or a process finds no place on any machine.
    """
    if misfits := misfit(processes, nodes):
        said, flag = misfits
        verb = "change" if flag.endswith(".resources") else "lower"
        raise ResourceError(
            f"{said}. Ray would wait for the rest without a word; {verb} {flag}, or join a larger "
            "cluster with --address"
        )


def misfit(
    processes: Mapping[str, Processes], nodes: Sequence[Mapping[str, float]]
) -> tuple[str, str] | None:
    """What does not fit, in words, and the flag that asks for it; `None`: everything does."""
    needs = {flag: asked.total for flag, asked in processes.items()}
    short = not_offered(processes, nodes) or shortage(needs, available=total(nodes))
    if short:
        return short
    flag = misplaced(processes, nodes)
    if flag is None:
        return None
    asked = processes[flag]
    custom = sorted({name for each in processes.values() for name in each.resources})
    kinds = Counter(_described(node, [n for n in custom if node.get(n)]) for node in nodes)
    machines = ", ".join(f"{count} x ({kind})" for kind, count in kinds.items())
    each = _described({"CPU": asked.cpus, "GPU": asked.gpus, **asked.resources}, asked.resources)
    said = (
        f"{flag}: {asked.number} processes of {each} each find no place beside the others on the "
        f"machines ({machines}), though their sum does: a process lies on one machine, its share "
        "of a GPU on one GPU"
    )
    return said, flag


def _described(amounts: Mapping[str, float], custom: Iterable[str]) -> str:
    """`8 CPUs, 1 GPUs, scorer 4`."""
    named = [f"{name} {amounts[name]:g}" for name in custom]
    return ", ".join([f"{amounts.get('CPU', 0):g} CPUs", f"{amounts.get('GPU', 0):g} GPUs", *named])


def not_offered(
    processes: Mapping[str, Processes], nodes: Sequence[Mapping[str, float]]
) -> tuple[str, str] | None:
    """The custom resource that the machines do not offer, in words, and the key to change."""
    wanted = {n for asked in processes.values() if asked.number for n in asked.resources}
    for name in sorted(wanted):
        asking = {f: p for f, p in processes.items() if p.number and p.resources.get(name)}
        offers = [node[name] for node in nodes if node.get(name)]
        largest = max(asking, key=lambda flag: asking[flag].resources[name])
        key, most = _custom_key(largest), asking[largest].resources[name]
        if not offers or max(offers) < most - 1e-6:
            there = f"at most {max(offers):g} of it" if offers else _offered(nodes)
            return f"{key}: no machine offers {name}={most:g}; they offer {there}", key
        asked = sum(each.number * each.resources[name] for each in asking.values())
        if asked > sum(offers) + 1e-6:
            parts = ", ".join(f"{f}: {p.number * p.resources[name]:g}" for f, p in asking.items())
            said = f"{asked:g} {name} are asked for and the cluster has {sum(offers):g}: {parts}"
            return said, f"{key}.{name}"
    return None


def _custom_key(flag: str) -> str:
    return "train.resources" if TRAIN_WORKERS in flag else "scoring.resources"


def _offered(nodes: Sequence[Mapping[str, float]]) -> str:
    """The custom resources of the machines, in words; not what Ray itself adds to each."""
    names = sorted({name for node in nodes for name in node if name not in KINDS})
    return ", ".join(name for name in names if ":" not in name) or "no custom resource"


def shortage(
    needs: dict[str, tuple[float, float]], *, available: dict[str, float]
) -> tuple[str, str] | None:
    """What is short, in words, and the flag that asks for most of it; `None`: everything fits."""
    for position, kind in ((0, "CPU"), (1, "GPU")):
        wanted = {flag: need[position] for flag, need in needs.items() if need[position]}
        asked, there = sum(wanted.values()), available.get(kind, 0.0)
        if asked > there + 1e-6:
            parts = ", ".join(f"{flag}: {amount:g}" for flag, amount in wanted.items())
            said = f"{asked:g} {kind}s are asked for and the cluster has {there:g}: {parts}"
            return said, max(wanted, key=wanted.__getitem__)
    return None
