"""The cluster that a run would have, and what it asks of it."""

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from raysb.cluster import (
    cluster_nodes,
    connected,
    object_store_bytes,
    own_cpus,
    own_gpus,
    running_clusters,
    total,
)
from raysb.config import Config
from raysb.doctor.findings import NOTE, OK, WRONG, Finding
from raysb.layout import size
from raysb.needs import Resources, mends, misfit, needs_of

CONNECT_S = 3.0  # to see whether anybody listens at an address


def joins(config: Config) -> str | None:
    """The cluster that a run would join, `None`: it starts one of its own."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address


def check_neighbours(config: Config) -> Iterator[Finding]:
    """Other Ray clusters on this machine, which a run never joins by itself."""
    yield neighbours(running_clusters(), config.address or os.environ.get("RAY_ADDRESS"))


def neighbours(running: Sequence[str], address: str | None) -> Finding:
    """What clusters on this machine mean for a run with that address."""
    data = {"running": list(running)}
    named: dict[str, Any] = {"topic": "ray", "name": "other clusters", "data": data}
    if not running:
        return Finding(**named, status=OK, said="none on this machine")
    said = f"on this machine: {', '.join(running)}"
    if address is None:
        return Finding(
            **named,
            status=WRONG,
            said=f"{said}; a run without an address is refused beside it",
            mend=f"--address {running[0]} to join it, --address local to start one beside it",
        )
    return Finding(**named, status=NOTE if address == "local" else OK, said=said)


def check_cluster(config: Config) -> tuple[list[Finding], float | None]:
    """What the run asks for against what this machine, or the cluster at the address, has.

    Returns:
        The findings, and the bytes of the object store where they are known.
    """
    address = joins(config)
    if address is None:
        nodes = [{"CPU": float(own_cpus()), "GPU": float(own_gpus())}]
        said = f"one of its own on this machine, with {own_cpus()} logical CPUs"
        own, store = (
            Finding(topic="ray", name="cluster", status=OK, said=said),
            object_store_bytes(),
        )
        return [own, check_resources_of(config, nodes)], None if store is None else store[0]
    try:
        nodes = _nodes_at(address)
    except Exception as error:  # whatever Ray raises: there is no cluster to be had
        return [_absent(address, error)], None
    store_bytes = sum(node.get("object_store_memory", 0.0) for node in nodes)
    return [_cluster(address, nodes), check_resources_of(config, nodes)], store_bytes


def _absent(address: str, error: Exception) -> Finding:
    return Finding(
        topic="ray",
        name="cluster",
        status=WRONG,
        said=f"{address}: {error}",
        mend="name a running cluster with --address, or --address local to start one here",
    )


def _cluster(address: str, nodes: Sequence[Resources]) -> Finding:
    there = total(nodes)
    memory, store = (
        sum(node.get(kind, 0.0) for node in nodes) for kind in ("memory", "object_store_memory")
    )
    said = f"{address}: machines {len(nodes)}, CPUs {there['CPU']:g}, GPUs {there['GPU']:g}"
    return Finding(
        topic="ray",
        name="cluster",
        status=OK,
        said=f"{said}, memory {size(memory)}, object store {size(store)}",
        data={"address": address, "nodes": [dict(node) for node in nodes]},
    )


def check_resources_of(config: Config, nodes: Sequence[Resources]) -> Finding:
    """CPUs and GPUs asked for against those that there are, and which flag makes them fit."""
    there = total(nodes)
    needs = needs_of(config, there)
    asked = {kind: sum(need[i] for need in needs.values()) for i, kind in enumerate(there)}
    data: dict[str, Any] = {
        "asked": asked,
        "there": there,
        "by_flag": {k: list(v) for k, v in needs.items()},
    }
    named: dict[str, Any] = {"topic": "configuration", "name": "resources", "data": data}
    why = misfit(config, nodes)
    if why is None:
        said = ", ".join(f"{asked[kind]:g} of {there[kind]:g} {kind}s" for kind in there)
        return Finding(**named, status=OK, said=said)
    flags = mends(config, nodes)
    data["mends"] = flags
    return Finding(
        **named,
        status=WRONG,
        said=f"{why}. Ray would wait for ever without a word",
        mend=", or ".join([*flags, "a larger cluster with --address", "--engine local"]),
    )


def _nodes_at(address: str) -> list[dict[str, float]]:
    _knock(address)
    with connected(address):
        return cluster_nodes()


def _knock(address: str) -> None:
    """See whether anybody listens, in seconds: Ray itself tries for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto`, or a word that Ray may know
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(f"nobody answers there ({error.strerror or error})") from None
