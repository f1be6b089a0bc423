"""A model cut into stages: consecutive layers, one stage a device or a worker.

Who can be cut: an `nn.Sequential`, or a module with a method `sequence()` that returns its layers,
whose composition is the model's forward. For `model_parallel` a module may instead have a method
`place(devices)` that puts its parts where it wants them, and returns outputs on `devices[0]`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from raysb.errors import ModelError


def layers_of(module: nn.Module, strategy: str) -> list[nn.Module]:
    """The layers of a model in the order in which rows pass them.

    Raises:
        ModelError: The model does not say what they are.
    """
    if isinstance(module, nn.Sequential):
        return list(module)
    sequence: Any = getattr(module, "sequence", None)
    if sequence is None:
        raise ModelError(
            f"train.strategy={strategy}: {type(module).__name__} cannot be cut into stages; give "
            "an nn.Sequential, or a method sequence() that returns the layers whose composition is "
            "the model's forward"
            + (", or a method place(devices)" if strategy == "model_parallel" else "")
        )
    return list(sequence())


def stages(
    layers: Sequence[nn.Module], count: int, split: Sequence[int] | None
) -> list[list[nn.Module]]:
    """Consecutive layers in `count` stages.

    Args:
        layers: Of the model.
        count: How many stages.
        split: Numbers of the layers at which the second and each further stage begins; `None` gives
            stages of as equal numbers of layers as can be, the longer ones first.

    Raises:
        ModelError: The layers cannot be cut in this way.
    """
    if split is None:
        size, longer = divmod(len(layers), count)
        split = [number * size + min(number, longer) for number in range(1, count)]
    cuts = [0, *split, len(layers)]
    if len(cuts) != count + 1 or any(a >= b for a, b in pairwise(cuts)):
        raise ModelError(
            f"train.strategy_args.split={list(split)}: {len(layers)} layers for {count} stages "
            f"need {count - 1} rising numbers of 1 to {len(layers) - 1}; the layers are "
            + ", ".join(f"{number} {type(layer).__name__}" for number, layer in enumerate(layers))
        )
    return [list(layers[a:b]) for a, b in pairwise(cuts)]


def place(
    module: nn.Module, devices: Sequence[torch.device], *, split: Sequence[int] | None = None
) -> nn.Module:
    """Put the stages of a model on devices, in place; rows follow, and outputs come back.

    Args:
        module: On the CPU.
        devices: One for each stage; one device alone takes both of two stages.
        split: As of `stages`.

    Returns:
        The same module: it takes rows on the first device, and gives outputs there.

    Raises:
        ModelError: The model cannot be cut.
    """
    devices = list(devices) if len(devices) > 1 else [devices[0]] * (len(split or [0]) + 1)
    if (own := getattr(module, "place", None)) is not None:
        own(devices)
        return module
    for stage, device in zip(
        stages(layers_of(module, "model_parallel"), len(devices), split), devices, strict=True
    ):
        for layer in stage:
            layer.to(device)
        stage[0].register_forward_pre_hook(_Mover(device))
    module.register_forward_hook(_Mover(devices[0]).back)
    return module


class _Mover:
    """Brings what passes a layer to a device; an object, so that models can be copied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._move(each) for each in args)

    def back(self, _: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
        """The same for what a module gives."""
        return self._move(outputs)

    def _move(self, value: Any) -> Any:
        return value.to(self._device) if isinstance(value, torch.Tensor) else value
