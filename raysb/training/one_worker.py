"""Ray Train's set-up of torch for one worker: there is no group of processes to make.

Ray Train makes one of a single process too, and its controller imports torch for that before it
starts the worker: more than a second of each start.
"""

from ray.train.backend import Backend, BackendConfig


class OneWorker(BackendConfig):
    """In the place of `ray.train.torch.TorchConfig`."""

    backend = "none"  # what `TorchTrainer` would choose by itself

    @property
    def backend_cls(self) -> type[Backend]:
        """Does nothing."""
        return SeesAllGpus


class SeesAllGpus(Backend):
    """The worker sees all GPUs that its machine's workers have, as under torch's own set-up."""

    share_cuda_visible_devices = True
