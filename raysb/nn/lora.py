"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685).

The pretrained weights stay as they are, and every adapted layer learns an update of low rank:

    h = W0 x + (alpha / r) B A x        W0 [d, k] frozen, A [r, k], B [d, r], r << min(d, k)

A is drawn from a Gaussian and B is zero, so at first the update is zero. After training
W = W0 + (alpha / r) B A makes a plain layer of the same cost as before. A convolution is the same
with W0 as a matrix [out, in * height * width of the kernel]: A is a convolution with that kernel to
r channels, B one of 1x1.
"""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeAlias

import torch
from torch import nn

from raysb.nn.freeze import freeze_named, state_names
from raysb.nn.patterns import chosen

Layer: TypeAlias = nn.Linear | nn.Conv2d

KEY = "model.adapter_args"


class LowRank(nn.Module):
    """The update of one layer: x -> (alpha / r) B A x.

    Args:
        layer: The layer that it is for.
        rank: r, at least 1.
        alpha: Numerator of the scale.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.A, self.B = _pair(layer, rank)
        # the paper leaves the variance open: with 1 / k, A x varies as x does
        nn.init.normal_(self.A.weight, std=1 / math.sqrt(self.A.weight[0].numel()))
        nn.init.zeros_(self.B.weight)
        self.to(layer.weight.device, layer.weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the layer's output."""
        added: torch.Tensor = self.B(self.A(x))
        return self.scale * added

    def delta(self) -> torch.Tensor:
        """(alpha / r) B A as a matrix [d, k]."""
        return self.scale * (self.B.weight.flatten(1) @ self.A.weight.flatten(1))


def add_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    target_modules: Iterable[str] = ("*",),
    modules_to_save: Iterable[str] = (),
) -> None:
    """Freeze a model, and adapt its `nn.Linear` and `nn.Conv2d` layers.

    Names are those of PEFT. Layers of derived classes are left alone: the classes of torch that
    use a layer's weight without calling the layer have such.

    Args:
        model: Changed in place; the names of its parameters stay, adapters are called
            `<layer>.lora.A.weight` and `<layer>.lora.B.weight`.
        rank: r, at least 1. Where it exceeds min(d, k) of a layer, nothing is gained there.
        alpha: The update's scale is alpha / r; `None`: r, a scale of 1.
        target_modules: Globs of the layers to adapt, as in `raysb.nn.freeze`.
        modules_to_save: Globs of modules that are trained in full in place of an adapter, such as
            a new head.

    Raises:
        ValueError: A value is out of range, a pattern matches nothing, no layer is left to adapt,
            or a layer cannot be: its convolution is grouped, or its weight is another's too.
    """
    _check(rank, alpha)
    full = chosen(
        state_names(model), _names(modules_to_save, "modules_to_save"), _key("modules_to_save")
    )
    layers = _layers(model, _names(target_modules, "target_modules"), full)
    freeze_named(model, set(state_names(model)) - full)
    for layer in layers:
        layer.lora = LowRank(layer, rank, rank if alpha is None else alpha)
        layer.register_forward_hook(_add)


def merge_lora(model: nn.Module) -> None:
    """Add every update to its weight, W0 + (alpha / r) B A, and take the adapters away.

    The model has the parameters that it had before `add_lora`. Without adapters nothing happens.
    """
    for layer in list(model.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d) and _is_adapted(layer):
            low_rank: LowRank = layer.lora  # type: ignore[assignment]
            with torch.no_grad():
                layer.weight += low_rank.delta().view(layer.weight.shape)
            del layer.lora
            for number, hook in list(layer._forward_hooks.items()):
                if hook is _add:
                    del layer._forward_hooks[number]


def _is_adapted(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "lora", None), LowRank)


def _add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    # a hook, and no class of our own: a layer keeps its class and the names of its parameters, and
    # torch's fused paths, which read weights past the layer, are off where there are hooks
    added: torch.Tensor = layer.lora(inputs[0])  # type: ignore[operator]
    return output + added


def _pair(layer: Layer, rank: int) -> tuple[Layer, Layer]:
    if isinstance(layer, nn.Linear):
        return (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )
    return (
        nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            bias=False,
            padding_mode=layer.padding_mode,
        ),
        nn.Conv2d(rank, layer.out_channels, 1, bias=False),
    )


def _layers(model: nn.Module, targets: tuple[str, ...], full: set[str]) -> list[Layer]:
    """The layers to adapt, checked to be such that an update can be merged."""
    every = {
        name: module
        for name, module in model.named_modules()
        if type(module) in (nn.Linear, nn.Conv2d) and f"{name}.weight".lstrip(".") not in full
    }
    wanted = chosen(every, targets, _key("target_modules"))
    layers = {name: module for name, module in every.items() if name in wanted}
    shared = _shared(model)
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise ValueError(_refused(name, f"is a convolution of {layer.groups} groups"))
        if id(layer.weight) in shared:
            raise ValueError(_refused(name, "shares its weight with another layer"))
    return list(layers.values())


def _shared(model: nn.Module) -> set[int]:
    seen: set[int] = set()
    twice: set[int] = set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        (twice if id(parameter) in seen else seen).add(id(parameter))
    return twice


def _refused(name: str, why: str) -> str:
    return (
        f"{_key('target_modules')}: {name!r} {why}, and cannot be adapted; name other layers, or "
        f"train it in full with {_key('modules_to_save')}"
    )


def _check(rank: int, alpha: float | None) -> None:
    if isinstance(rank, bool) or not isinstance(rank, Integral) or rank < 1:
        raise ValueError(f"{_key('rank')}={rank!r}: must be a whole number of at least 1")
    if alpha is None:
        return
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < alpha < math.inf:
        raise ValueError(f"{_key('alpha')}={alpha!r}: must be a number above 0, or none")


def _names(patterns: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(patterns, str) or not all(isinstance(each, str) for each in patterns):
        raise ValueError(f"{_key(name)}={patterns!r}: must be a list of patterns")
    return tuple(patterns)


def _key(name: str) -> str:
    return f"{KEY}.{name}"
