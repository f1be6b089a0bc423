"""Ray Train's set-up of torch for one worker, which makes its process group by itself.

Ray Train's controller makes it, and imports torch for that before it starts the worker: more than a
second of each start. Several workers it has to bring together; one needs nobody.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.train.backend import Backend, BackendConfig

from raysb.collecting import collecting_rarely

LAUNCHED = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "NODE_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
}


class OneWorker(BackendConfig):
    """In the place of `ray.train.torch.TorchConfig`.

    Attributes:
        backend: Set by `TorchTrainer` and asked by nobody: the worker looks at its device.
    """

    backend: str | None = None

    @property
    def backend_cls(self) -> type[Backend]:
        """What the controller does for it: next to nothing."""
        return SeesAllGpus

    @property
    def train_func_context(self) -> Any:
        """What the worker's loop runs in."""
        return group_of_one


class SeesAllGpus(Backend):
    """The worker sees all GPUs that its machine's workers have, as under torch's own set-up."""

    share_cuda_visible_devices = True


@contextmanager
def group_of_one() -> Iterator[None]:
    """A process group of one and the environment of torch's launcher, for code that asks for them.

    `MASTER_PORT` is free: there is no store at it until somebody opens one.
    """
    with collecting_rarely():
        import torch.distributed as dist
        from ray.train.torch import TorchConfig, get_device

    with TorchConfig().train_func_context():
        device = get_device()
        os.environ.update(
            LAUNCHED, MASTER_PORT=str(_free_port()), ACCELERATE_TORCH_DEVICE=str(device)
        )
        store = dist.HashStore()  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        yield


def _free_port() -> int:
    with socket.socket() as asking:
        asking.bind((LAUNCHED["MASTER_ADDR"], 0))
        return int(asking.getsockname()[1])
