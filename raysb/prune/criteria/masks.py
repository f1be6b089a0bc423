"""Keeps removed weights at 0 while the others are trained."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from raysb.prune.criteria.layers import Layer, find_layers


class Masks:
    """Which weights of a model stay, and what holds the others at 0.

    `hold` does what torch.nn.utils.prune does by a parametrisation, without changing the module:
    names, state_dict and class stay as they are, and there is nothing to be made permanent.

    Args:
        masks: For each layer bool in the shape of its weight, False where a weight is 0.

    Raises:
        TypeError: A mask is not bool.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise TypeError(f"Masks({name!r}): dtype {mask.dtype}; must be torch.bool")
        self._masks = dict(masks)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The mask of a layer."""
        return self._masks[name]

    def density(self) -> dict[str, float]:
        """Share of each layer's weights that stay; 0 cuts the net in two."""
        return {name: float(mask.float().mean()) for name, mask in self._masks.items()}

    def apply(self, model: nn.Module) -> None:
        """Set removed weights to 0.

        Raises:
            ValueError: A layer does not exist or its weight has another shape.
        """
        _clear(self._pairs(model))

    def hold(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Apply the masks now and after every step; removed weights get no gradient either.

        The gradient is masked when it is computed, so neither momentum nor the norm that gradients
        are clipped to sees it; weights are masked after the step too, for what moves them otherwise
        (weight decay, a momentum from before).

        Args:
            model: What is trained; the module in a DistributedDataParallel wrapper.
            optimizer: Over its parameters.

        Returns:
            A function that ends it.

        Raises:
            ValueError: As of `apply`.
        """
        pairs = self._pairs(model)
        _clear(pairs)
        hooks: list[Any] = [
            weight.register_hook(partial(torch.mul, mask))  # type: ignore[no-untyped-call]
            for weight, mask in pairs
            if weight.requires_grad
        ]
        hooks.append(optimizer.register_step_post_hook(lambda *_: _clear(pairs)))

        def release() -> None:
            for hook in hooks:
                hook.remove()

        return release

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The masks by layer, on the CPU; `Masks(state)` is made of it."""
        return {name: mask.cpu() for name, mask in self._masks.items()}

    def _pairs(self, model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        layers = find_layers(model, list(self._masks))
        return [
            (layer.weight, _fitting(name, layer, self._masks[name]))
            for name, layer in layers.items()
        ]


def _fitting(name: str, layer: Layer, mask: torch.Tensor) -> torch.Tensor:
    if mask.shape != layer.weight.shape:
        raise ValueError(
            f"Masks: layer {name!r} has a weight {list(layer.weight.shape)}, its mask is "
            f"{list(mask.shape)}: make the masks from this model"
        )
    return mask.to(layer.weight.device)


def _clear(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with torch.no_grad():
        for weight, mask in pairs:
            weight.masked_fill_(~mask, 0.0)
