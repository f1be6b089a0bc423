"""The loss classes of torch.nn by name, called without their reduction.

Dimensions in comments: B rows.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from raysb.imports import call
from raysb.losses.outputs import (
    Batch,
    at_least_float32,
    check_target,
    column,
    like,
    logits_of,
    mean_of_rest,
)

_INDEX_LOSSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
_REDUCTIONS = ("reduction", "reduce", "size_average")


@dataclass(frozen=True)
class TorchLoss:
    """A loss class of torch.nn, called without its reduction; the mean over all but the first dim.

    Args:
        name: Name of the class, e.g. `SmoothL1Loss`; its forward must take (input, target).
        target: Column of the target.
        args: Arguments of the class; a list becomes a tensor, e.g. `weight`.
    """

    name: str
    target: str = "label"
    args: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_target(self.name, self.target)
        object.__setattr__(self, "module", _build_torch_loss(self.name, self.args))

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        values = at_least_float32(logits_of(outputs))
        target = column(batch, self.target)
        if self.name in _INDEX_LOSSES and not target.is_floating_point():
            target = target.long()
        elif self.name == "MultiLabelMarginLoss":
            target = target.long()
        else:
            target = like(target.to(values.dtype), values, self.target)
        # a class weight has to be where the outputs are; without tensors this costs nothing
        return mean_of_rest(self.module.to(values.device)(values, target))


class TorchClassLoss(TorchLoss):
    """A `TorchLoss` over the classes of a row, whose prediction is the largest output."""

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether the largest output is that of the label. uint8 [B]."""
        labels = column(batch, self.target)
        labels = labels.argmax(1) if labels.is_floating_point() else labels
        return (logits_of(outputs).argmax(1) == labels).to(torch.uint8)


def torch_loss(name: str, target: str = "label", **args: Any) -> TorchLoss:
    """A class of torch.nn by name, e.g. `torch_loss("HuberLoss", "price", delta=2.0)`."""
    family = TorchClassLoss if name in _INDEX_LOSSES else TorchLoss
    return family(name, target, args)


def _build_torch_loss(name: str, args: Mapping[str, Any]) -> nn.Module:
    family = getattr(nn, name, None)
    if not (inspect.isclass(family) and issubclass(family, nn.Module)):
        raise ValueError(f"train.loss={name!r}: torch.nn has no such class")
    takes = [p for p in inspect.signature(family.forward).parameters if p != "self"]
    if len(takes) != 2 or "reduction" not in inspect.signature(family).parameters:
        raise ValueError(
            f"train.loss={name!r}: takes ({', '.join(takes)}), not one output and one target with "
            "a reduction; give a function (outputs, batch) -> [B] by its import path"
        )
    reductions = [arg for arg in _REDUCTIONS if arg in args]
    if reductions:
        raise ValueError(
            f"train.loss_args.{reductions[0]}={args[reductions[0]]!r}: one loss per sample is "
            "needed, nothing may be reduced; leave it out"
        )
    tensors = {k: torch.tensor(v) if isinstance(v, list | tuple) else v for k, v in args.items()}
    module: nn.Module = call(family, (), {**tensors, "reduction": "none"}, "train.loss_args")
    return module
