"""Ray itself: joined or started, quiet, and asked first whether what a run needs is there."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from raysb.errors import ResourceError

NAMESPACE = "raysb"
# Quiet, and quick to answer: Ray Train asks its workers every .2 s instead of every 2 s, so that
# saving a checkpoint does not wait 2 s for the controller.
ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
SPARE_CPUS = 3  # logical, on a cluster of our own: for planning and readers, which mostly wait


def prepare_environment(verbose: bool = False) -> None:
    """Set what Ray reads when it is imported; what the user has set stays."""
    for name, value in {**ENVIRONMENT, **({} if verbose else QUIET)}.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:  # the native part reads the mode at import
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def connected(
    address: str | None = None, *, num_gpus: int | None = None, verbose: bool = False
) -> Iterator[Any]:
    """A connection to Ray: the one at hand, the cluster at the address, or one of our own.

    A cluster that happens to run on this machine is never joined by itself: only with an address,
    or inside a job, where Ray sets RAY_ADDRESS. One of our own ends with the block.

    Raises:
        ResourceError: No address is given and a cluster runs on this machine.
    """
    prepare_environment(verbose)
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
    if address == "local":
        count = os.cpu_count() or 1
        ray.init(
            address="local",
            num_cpus=count + SPARE_CPUS,
            num_gpus=num_gpus,
            include_dashboard=False,
            namespace=NAMESPACE,
            **quiet,
        )
    else:
        ray.init(address=address, namespace=NAMESPACE, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()


def refuse_company() -> None:
    """Raise if a Ray cluster runs on this machine and nobody said whether it is meant.

    Raises:
        ResourceError: There is one.
    """
    try:
        from ray._private.services import find_gcs_addresses
    except ImportError:  # private: without it, a second cluster is started as Ray would
        return
    if running := sorted(find_gcs_addresses()):  # type: ignore[no-untyped-call]
        raise ResourceError(
            f"a Ray cluster runs on this machine ({', '.join(running)}). Two clusters on one "
            "machine take each other's workers for their own: join it with --address "
            f"{running[0]}, end it, or start one of your own beside it with --address local"
        )


def cluster_resources() -> dict[str, float]:
    """What the cluster at hand has in all, by kind."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return there


def check_resources(needs: dict[str, tuple[float, float]], *, available: dict[str, float]) -> None:
    """Refuse what would otherwise wait for ever without a word.

    Args:
        needs: (CPUs, GPUs) by the flag that asks for them.
        available: `ray.cluster_resources()`.

    Raises:
        ResourceError: The sum is more than there is.
    """
    for position, kind in ((0, "CPU"), (1, "GPU")):
        wanted = {flag: need[position] for flag, need in needs.items() if need[position]}
        total, there = sum(wanted.values()), available.get(kind, 0.0)
        if total > there + 1e-6:
            parts = ", ".join(f"{flag}: {amount:g}" for flag, amount in wanted.items())
            raise ResourceError(
                f"{total:g} {kind}s are asked for and the cluster has {there:g}: {parts}. Ray "
                "would wait for the rest without a word; lower "
                f"{max(wanted, key=wanted.__getitem__)}, or join a larger cluster with --address"
            )
