"""Ray Train's set-up of torch for one worker, which makes its process group by itself.

Ray Train's controller makes it, and imports torch for that before it starts the worker: more than a
second of each start. Several workers it has to bring together; one needs nobody.
"""

from typing import Any

from ray.train.backend import Backend, BackendConfig

from raysb.collecting import collecting_rarely


class OneWorker(BackendConfig):
    """In the place of `ray.train.torch.TorchConfig`.

    Attributes:
        backend: Of torch.distributed; where it is `None`, `TorchTrainer` chooses.
    """

    backend: str | None = None

    @property
    def backend_cls(self) -> type[Backend]:
        """What the controller does for it: next to nothing."""
        return SeesAllGpus

    @property
    def train_func_context(self) -> Any:
        """What the worker's loop runs in."""
        return GroupOfOne


class SeesAllGpus(Backend):
    """The worker sees all GPUs that its machine's workers have, as under torch's own set-up."""

    share_cuda_visible_devices = True


class GroupOfOne:
    """A process group of one for code that asks for its rank, and torch's own settings."""

    def __enter__(self) -> None:
        with collecting_rarely():
            import torch.distributed as dist
            from ray.train.torch import TorchConfig, get_device

        self._torch = TorchConfig().train_func_context()
        self._torch.__enter__()
        backend = "nccl" if get_device().type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)

    def __exit__(self, *raised: object) -> bool:
        return bool(self._torch.__exit__(*raised))
