"""Makes the small net: channels are cut out of weights, norms and statistics."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from raysb.errors import ModelError
from raysb.prune.plan import Kept, PruningPlan


def apply(plan: PruningPlan, model: nn.Module) -> nn.Module:
    """Cut a model down to a plan, in place, and return it.

    A model with weights keeps those of the channels that stay; a fresh one then takes a pruned
    state dict. Parameters are new objects: an optimizer must be made afterwards.

    Args:
        plan: Of a model of the same class and sizes.
        model: Changed only if all of it fits.

    Raises:
        ModelError: A module of the plan is missing, of another kind or of another size, or what
            stays of it cannot be.
    """
    modules = dict(model.named_modules())
    for name, kept in plan.modules.items():
        _check(name, modules.get(name), kept, model)
    for name, kept in plan.modules.items():
        _cut(modules[name], kept)
    return model


def is_applied(plan: PruningPlan, model: nn.Module) -> bool:
    """Whether a model has the sizes that a plan leaves."""
    modules = dict(model.named_modules())
    return all(
        _sizes(modules.get(name)) == [len(kept.outputs), len(kept.inputs), int(kept.sizes[3])]
        for name, kept in plan.modules.items()
    )


def _sizes(module: nn.Module | None) -> list[int] | None:
    """Channels out, channels in, groups; in is 0 of norms."""
    if isinstance(module, _ConvNd):
        return [module.out_channels, module.in_channels, module.groups]
    if isinstance(module, nn.Linear):
        return [module.out_features, module.in_features, 1]
    if isinstance(module, nn.GroupNorm):
        return [module.num_channels, 0, module.num_groups]
    if isinstance(module, _NormBase):
        return [module.num_features, 0, 1]
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return [*module.normalized_shape, 0, 1]
    return [module.num_parameters, 0, 1] if isinstance(module, nn.PReLU) else None


def _check(name: str, module: nn.Module | None, kept: Kept, model: nn.Module) -> None:
    if wrong := kept.wrong():
        raise ModelError(f"apply: the plan cannot be: module {name!r}, {wrong}")
    has, wanted = _sizes(module), kept.sizes[:3].tolist()
    if has == wanted:
        return
    found = "there is none" if module is None else f"{type(module).__name__} with {_words(has)}"
    raise ModelError(
        f"apply: the plan does not fit {type(model).__name__}: module {name!r} should have "
        f"{_words(wanted)}, but {found}; build the model as the one that the plan was made of, "
        "which was not pruned yet"
    )


def _words(sizes: list[int] | None) -> str:
    if sizes is None or len(sizes) != 3:
        return "no channels that can be cut"
    out, into, groups = sizes
    return f"{out} channels" + (f" out, {into} in" if into else "") + f", {groups} groups"


def _cut(module: Any, kept: Kept) -> None:
    groups = int(kept.sizes[3])
    if isinstance(module, nn.Linear):
        _set(module, "weight", module.weight[kept.outputs][:, kept.inputs])
        module.out_features, module.in_features = len(kept.outputs), len(kept.inputs)
    elif isinstance(module, _ConvNd):
        _set(module, "weight", _kernels(module, kept))
        module.out_channels, module.in_channels = len(kept.outputs), len(kept.inputs)
        module.groups = groups
    else:
        _cut_norm(module, kept, groups)
        return
    if module.bias is not None:
        _set(module, "bias", module.bias[kept.outputs])


def _kernels(conv: _ConvNd, kept: Kept) -> torch.Tensor:
    """The weight that stays: [out, in / groups, ...], or [in, out, ...] of a transposed one."""
    weight = conv.weight
    if conv.transposed:
        return weight[kept.inputs][:, kept.outputs]
    if conv.groups == conv.in_channels:  # one input channel each, or one in all
        return weight[kept.outputs]
    rows, columns = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    parts = []
    for group in range(conv.groups):
        out = kept.outputs[kept.outputs // rows == group]
        into = kept.inputs[kept.inputs // columns == group] - group * columns
        if len(out):  # of a net that is pruned twice whole groups may go
            parts.append(weight[out][:, into])
    return torch.cat(parts)


def _cut_norm(norm: Any, kept: Kept, groups: int) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(norm, name, None) is not None:
            _set(norm, name, getattr(norm, name)[kept.outputs])
    size = len(kept.outputs)
    if isinstance(norm, nn.GroupNorm):
        norm.num_channels, norm.num_groups = size, groups
    elif isinstance(norm, _NormBase):
        norm.num_features = size
    elif isinstance(norm, nn.PReLU):
        norm.num_parameters = size
    else:
        norm.normalized_shape = (size,)


def _set(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter or buffer by a smaller one, in its own memory and memory format."""
    old = getattr(module, name)
    # by strides: a weight of one input channel is contiguous either way, and they decide how
    # the convolution lays out what it gives
    layouts = (torch.channels_last, torch.contiguous_format) if old.dim() == 4 else ()
    same = (
        each
        for each in layouts
        if torch.empty_like(old, memory_format=each).stride() == old.stride()
    )
    new = value.detach().clone(memory_format=next(same, torch.contiguous_format))
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)
