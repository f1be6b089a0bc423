"""Batches on their way to a GPU: from pinned memory, beside the computation of the step before.

Columns travel as the source gives them, images as uint8: a quarter of float32's bytes.
`raysb.inputs` makes numbers of them and normalises where the model is.
"""

import torch

from raysb.task import TensorBatch, to_device


class Transfer:
    """Copies batches to a device; those that go to a CPU are passed on as they are.

    On CUDA a batch is copied into page-locked memory and from there on a stream of its own. The
    call returns before the copy is done, and the copy runs while the kernels of the step before are
    still computing; what the caller launches after waits for it on the GPU alone.

    Args:
        device: Where batches go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def __call__(self, batch: TensorBatch) -> TensorBatch:
        """The tensors of a batch on the device, to be used on its current stream."""
        if self.stream is None:
            return to_device(batch, self._device)
        pinned = {name: tensor.pin_memory() for name, tensor in batch.items()}
        with torch.cuda.stream(self.stream):
            moved = {
                name: tensor.to(self._device, non_blocking=True) for name, tensor in pinned.items()
            }
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self.stream)
        for tensor in moved.values():  # whose memory came from the other stream: not free before
            tensor.record_stream(current)
        return moved
