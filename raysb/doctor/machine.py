"""CPUs, GPUs and shared memory of this machine."""

import os
from collections.abc import Iterator, Sequence

from raysb.cluster import object_store_bytes, own_gpus
from raysb.doctor.findings import NOTE, OK, WRONG, Finding
from raysb.layout import size


def check_machine() -> Iterator[Finding]:
    """CPUs, GPUs and memory of this machine."""
    count, usable = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    limited = f", of which this process may use {usable}" if usable < count else ""
    yield Finding(
        topic="machine",
        name="CPUs",
        status=NOTE if limited else OK,
        said=f"{count}{limited}",
        data={"cpus": count, "usable": usable},
    )
    yield check_gpus(own_gpus(), _torch_gpus())
    if (store := object_store_bytes()) is not None:
        yield check_shared_memory(*store)


def check_gpus(ray_sees: int, torch_sees: Sequence[tuple[str, int]]) -> Finding:
    """GPUs as Ray counts them against those that torch can use.

    Args:
        ray_sees: How many Ray would offer.
        torch_sees: Name and bytes of each that torch can use.
    """
    data = {"ray": ray_sees, "torch": [{"name": n, "bytes": b} for n, b in torch_sees]}
    if ray_sees > len(torch_sees):
        return Finding(
            topic="machine",
            name="GPUs",
            status=WRONG,
            said=f"Ray would offer {ray_sees} and torch can use {len(torch_sees)}: a worker that "
            "is given one would fail",
            mend="--train.use_gpu false, or install a torch built for this machine's CUDA",
            data=data,
        )
    said = ", ".join(f"{name} ({size(each)})" for name, each in torch_sees) or "none"
    return Finding(topic="machine", name="GPUs", status=OK, said=said, data=data)


def check_shared_memory(wanted: int, there: int) -> Finding:
    """/dev/shm against what Ray's object store would take, in bytes."""
    data = {"object_store_bytes": wanted, "shm_bytes": there}
    said = f"/dev/shm has {size(there)} free, Ray's object store takes up to {size(wanted)}"
    if there >= wanted:
        return Finding(topic="machine", name="shared memory", status=OK, said=said, data=data)
    gigabytes = wanted * 1.1 / 2**30
    return Finding(
        topic="machine",
        name="shared memory",
        status=NOTE,
        said=f"{said}: it would lie on disk, in /tmp, which is slow",
        mend=f"docker run --shm-size={gigabytes:.1f}gb, or free space in /dev/shm",
        data=data,
    )


def _torch_gpus() -> list[tuple[str, int]]:
    import torch

    if not torch.cuda.is_available():
        return []
    known = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(each.name, each.total_memory) for each in known]
