"""Sparse training: an L1 penalty on the scales of norms (network slimming).

Liu et al. 2017, arXiv:1708.06519:

    loss + strength * sum over norms and channels of |gamma|

Scales that are pulled to zero tell which channels are not needed: their size is then the importance
of the channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from raysb.prune.graph import ChannelGraph

Batch = dict[str, torch.Tensor]


def scale_penalty(model: nn.Module) -> torch.Tensor:
    """Sum |gamma| over every batch, instance and group norm of a model. float, no dimension

    Raises:
        ValueError: The model has no such norm with scales.
    """
    scales = [
        module.weight
        for module in model.modules()
        if isinstance(module, _NormBase | nn.GroupNorm) and module.weight is not None
    ]
    if not scales:
        raise ValueError(f"scale_penalty({type(model).__name__}): it has no norm with scales")
    return torch.stack([scale.abs().sum() for scale in scales]).sum()


def sparse_step(
    forward: Callable[[nn.Module, Batch], Any],
    loss: Callable[[Any, Batch], torch.Tensor],
    strength: float = 1e-4,
) -> Callable[[nn.Module, Batch], dict[str, torch.Tensor]]:
    """A `step` for `SelectiveTrainer` that trains with the penalty; scores stay those of the loss.

    Args:
        forward: `(model, batch) -> outputs`, as the trainer has it.
        loss: `(outputs, batch) -> [B]`, as the trainer has it.
        strength: Factor of the penalty, at least 0; 1e-4 in the paper.
    """
    if not strength >= 0:
        raise ValueError(f"sparse_step(strength={strength}): must be at least 0")

    def step(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        losses = loss(forward(model, batch), batch)
        penalty = strength * scale_penalty(model)
        return {"loss": losses, "sparsity": penalty.expand(len(losses))}

    return step


def scale_importance(model: nn.Module, graph: ChannelGraph) -> dict[str, torch.Tensor]:
    """|gamma| of the norms that each layer's channels pass through, for `make_plan`.

    Args:
        model: Trained with the penalty.
        graph: Of the model.

    Returns:
        For each prunable layer the mean over its norms. float64 [out_channels]

    Raises:
        ValueError: A prunable layer has no norm behind it; protect it, or rank it otherwise.
    """
    total = torch.zeros(graph.num_ids, dtype=torch.float64)
    number = torch.zeros_like(total)
    for name, ids in graph.norms.items():
        weight = getattr(model.get_submodule(name), "weight", None)
        if weight is not None and weight.shape == ids.shape:
            total.index_add_(0, ids, weight.detach().abs().double().cpu())
            number.index_add_(0, ids, torch.ones(len(ids), dtype=torch.float64))
    bare = [n for n in graph.prunable if not number[graph.layers[n].outputs].all()]
    if bare:
        raise ValueError(
            f"scale_importance: no norm has a scale for the channels of {', '.join(bare)}; protect "
            "these layers, or rank them by another criterion"
        )
    mean = total / number.clamp(min=1)
    return {name: mean[graph.layers[name].outputs] for name in graph.prunable}
