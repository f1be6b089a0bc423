"""The layers whose output channels are ranked, and their weights by channel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from raysb.imports import unknown

Layer: TypeAlias = nn.Linear | _ConvNd


def is_prunable(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution, transposed or not."""
    return isinstance(module, Layer)


def prunable_layers(model: nn.Module) -> list[str]:
    """Names of the convolutions and linear layers, as `named_modules` has them, in its order."""
    return [name for name, module in model.named_modules() if is_prunable(module)]


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, Layer]:
    """The layers of these names.

    Raises:
        ValueError: There is none of that name (the nearest right one is named), or it is neither
            a convolution nor linear; or no name is given.
    """
    if isinstance(names, str) or not len(names):
        raise ValueError(f"layers={names!r}: must be a list with at least one layer's name")
    return {name: _find(model, name) for name in names}


def _find(model: nn.Module, name: str) -> Layer:
    modules = dict(model.named_modules())
    if name not in modules:
        raise ValueError(f"layers: no layer {name!r}: {unknown(name, prunable_layers(model))}")
    module = modules[name]
    if not isinstance(module, Layer):
        raise ValueError(
            f"layers: {name!r} is {type(module).__name__}; only linear layers and convolutions "
            f"have channels to rank, here: {', '.join(prunable_layers(model)) or 'none'}"
        )
    return module


def num_channels(layer: Layer) -> int:
    """Output channels, C."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def by_channel(layer: Layer, values: torch.Tensor) -> torch.Tensor:
    """Values in the shape of the weight, those of each output channel's filter in a row. [C, D]"""
    if isinstance(layer, _ConvTransposeNd):  # [in, out / groups, ...]
        shape = (layer.groups, len(values) // layer.groups, *values.shape[1:])
        values = values.reshape(shape).transpose(1, 2).flatten(0, 1)
    return values.flatten(1)


def cost_positions(layer: Layer, inputs: torch.Tensor, output: torch.Tensor) -> int:
    """How often each weight is used for one row."""
    if isinstance(layer, _ConvTransposeNd):
        return inputs[:1].numel() // layer.in_channels
    return output[:1].numel() // num_channels(layer)


def filters(layer: Layer) -> torch.Tensor:
    """The weights of each output channel, W[j] flattened, without the bias. float64 [C, D]"""
    return by_channel(layer, layer.weight.detach()).double()


def channel_dim(layer: Layer) -> int:
    """The dimension of the output that counts channels."""
    return -1 if isinstance(layer, nn.Linear) else 1


@contextmanager
def weights_require_grad(layers: Sequence[Layer]) -> Iterator[None]:
    """Gradients are recorded from these layers on within, frozen or not; flags as they were after.

    Without it no gradient reaches the output of a layer that nothing before it needs one for.
    """
    flags = [(w, w.requires_grad) for layer in layers for w in layer.parameters()]
    try:
        for weight, _ in flags:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, required in flags:
            weight.requires_grad_(required)
