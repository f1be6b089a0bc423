"""Smaller pictures for scoring: a quarter of the pixels is about a quarter of the forward pass.

Losses at another resolution are other losses, so they are compared with each other only.

Dimensions in comments: B rows, C channels, H/W pixels.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from raysb.errors import ModelError
from raysb.task import Inputs, Task, TensorBatch, describe


def check_scale(scale: float) -> float:
    """Refuse what is no share of the pixels of a side.

    Raises:
        ValueError: It is not above 0 and at most 1.
    """
    if not 0 < scale <= 1:
        raise ValueError(f"image_scale={scale!r}: must be above 0 and at most 1")
    return scale


def shrink(task: Task, batch: TensorBatch, scale: float) -> TensorBatch:
    """The batch with its pictures at `scale` of their height and width, bilinear with antialias.

    Pictures are uint8 [B, H, W] and [B, H, W, C], which stay uint8, and floats [B, C, H, W]. They
    are looked for in the columns of the task's `Inputs`; of another `forward` in all columns but
    the loss's target. Sides are rounded, and at least one pixel.

    Args:
        task: Tells what the model sees.
        batch: Tensors, as the model would see them.
        scale: Above 0 and at most 1, which leaves all as it is.

    Raises:
        ModelError: No column holds pictures.
    """
    if scale == 1:
        return batch
    found = {name: _resized(batch[name], scale) for name in _seen(task, batch) if name in batch}
    small = {name: picture for name, picture in found.items() if picture is not None}
    if not small:
        raise ModelError(
            f"image_scale={scale}: no column holds pictures, uint8 [B, H, W] or [B, H, W, C] or "
            f"floats [B, C, H, W]; columns: {describe(batch)}. Leave image_scale at 1"
        )
    return batch | small


def _seen(task: Task, batch: TensorBatch) -> Iterable[str]:
    if isinstance(task.forward, Inputs):
        return task.forward.columns
    return [name for name in batch if name != getattr(task.loss, "target", None)]


def _resized(column: torch.Tensor, scale: float) -> torch.Tensor | None:
    """The pictures of a column; `None` where it holds none."""
    if column.dtype == torch.uint8 and column.dim() in (3, 4):
        if column.dim() == 3:
            return _to_bytes(_interpolated(column.unsqueeze(1).float(), scale)).squeeze(1)
        small = _interpolated(column.permute(0, 3, 1, 2).float(), scale)
        return _to_bytes(small).permute(0, 2, 3, 1)
    if column.is_floating_point() and column.dim() == 4:
        return _interpolated(column, scale)
    return None


def _to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _interpolated(images: torch.Tensor, scale: float) -> torch.Tensor:
    """[B, C, H, W] to [B, C, h, w]."""
    size = [max(round(scale * side), 1) for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)
