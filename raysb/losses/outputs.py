"""What every loss does first: find the logits and the column that they are compared with.

Dimensions in comments: B rows, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from raysb.errors import ModelError

Batch: TypeAlias = Mapping[str, torch.Tensor]
Loss: TypeAlias = Callable[[Any, Batch], torch.Tensor]


def logits_of(outputs: Any) -> torch.Tensor:
    """The tensor of a model's outputs: itself, its key `logits`, or its attribute `logits`.

    Raises:
        ModelError: If there is none.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = getattr(outputs, "logits", None) if found is None else found
    if isinstance(found, torch.Tensor):
        return found
    keys = f" with keys {list(outputs)}" if isinstance(outputs, Mapping) else ""
    raise ModelError(
        f"the model returned {type(outputs).__name__}{keys}; a tensor is needed, or an object or "
        "dict with `logits`: give forward=(model, batch) -> tensor"
    )


def check_target(name: str, target: Any) -> None:
    """Refuse what is no name of a column."""
    if not isinstance(target, str) or not target:
        raise ValueError(
            f"{name}(target={target!r}): must be the name of a column (data.target), e.g. 'label'"
        )


def column(batch: Batch, name: str) -> torch.Tensor:
    """The column, or an error that names those there are."""
    if name in batch:
        return batch[name]
    raise ModelError(
        f"the batch has no numeric column {name!r} to compare with; its columns: "
        f"{', '.join(map(str, batch)) or 'none'}: set data.target"
    )


def like(target: torch.Tensor, outputs: torch.Tensor, name: str) -> torch.Tensor:
    """The target in the outputs' shape; [B] and [B, 1] would broadcast to [B, B] without a word."""
    if target.shape == outputs.shape:
        return target
    if len(target) == len(outputs) and target.numel() == outputs.numel():
        return target.reshape(outputs.shape)
    raise ModelError(
        f"column {name!r} has shape {list(target.shape)}, the model's outputs "
        f"{list(outputs.shape)}: they must be equal; set model.num_classes to the number of values "
        "in a row"
    )


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def mean_of_rest(losses: torch.Tensor) -> torch.Tensor:
    """Mean over all dimensions but the first. [B]."""
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1)
