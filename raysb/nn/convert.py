"""Group norm in place of the batch norm of a model that somebody else wrote."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from raysb.nn import norm
from raysb.nn.freeze import is_held

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What a batch norm keeps and a group norm does not have."""

_NORMALISE = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
_OWN = {"weight", "bias", *STATISTICS}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_SHOWN = 6  # layers in a message
_FEWEST_FEATURES = 3


def convert_norm(model: nn.Module, num_groups: int | None = None) -> nn.Module:
    """Replace every batch norm of a model by a group norm (Wu & He 2018, arXiv:1803.08494).

        y = gamma (x - mu_g) / sqrt(var_g + eps) + beta

    with mean and variance over the pixels and channels of a group of one row, so that no row's
    output or gradient depends on which others are in the batch. gamma and beta are the very
    parameters of the batch norm: ties, dtype, device, `requires_grad` and an optimizer that holds
    them stay. eps and the module's mode stay too; running statistics go. A module that is used in
    several places is replaced by one. Where `raysb.nn.freeze` froze a batch norm whole, its
    statistics do not move, and it is left as it is.

    The function is another than before: weights that were trained with batch norm need to be
    trained further.

    Args:
        model: Changed in place: `BatchNorm1d`, `2d`, `3d` and `SyncBatchNorm`, however deep, and
            classes derived from them that normalise and do nothing else.
        num_groups: Of every layer; `None`: `raysb.nn.norm.num_groups`, the largest number up to
            C / 8 that divides the C channels, at least 1 and at most 32.

    Returns:
        The model; the group norm, if the model itself is a batch norm.

    Raises:
        TypeError: `num_groups` is no whole number.
        ValueError: It is below 1, or a layer cannot be converted. All such layers are named, and
            nothing is changed.
    """
    _check(num_groups)
    layers = {name: m for name, m in model.named_modules() if _moves(m)}
    wrong = {name: text for name, m in layers.items() if (text := _obstacle(m, num_groups))}
    if wrong:
        raise ValueError(_refusal(wrong, layers, num_groups))
    groups = {layer: _group_norm(layer, num_groups) for layer in layers.values()}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, _BatchNorm) and child in groups:
                parent._modules[name] = groups[child]
    return groups.get(model, model) if isinstance(model, _BatchNorm) else model


def _check(num_groups: Any) -> None:
    if num_groups is None:
        return
    if not isinstance(num_groups, Integral) or isinstance(num_groups, bool):
        raise TypeError(f"convert_norm(num_groups={num_groups!r}): must be a whole number, or None")
    if num_groups < 1:
        raise ValueError(f"convert_norm(num_groups={num_groups}): must be at least 1, or None")


def _moves(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and not is_held(module)


def _obstacle(layer: nn.Module, num_groups: int | None) -> str:
    """Why a batch norm cannot become a group norm, or nothing."""
    if isinstance(layer, LazyModuleMixin):
        return "does not know its channels yet; run one batch through the model first"
    if type(layer).forward not in _NORMALISE or _more(layer):
        return "does more than normalise, and that would be lost; build the model without it"
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        return "has hooks, which would be lost; register them after the conversion"
    channels = int(layer.num_features)  # type: ignore[arg-type]  # untyped in nn.Module
    groups = norm.num_groups(channels) if num_groups is None else num_groups
    if channels % groups:
        return f"{groups} groups do not divide its {channels} channels"
    each = channels // groups
    if isinstance(layer, nn.BatchNorm1d) and each < _FEWEST_FEATURES:
        # of one value the norm is 0, of two it is -1 and 1, whatever they are
        return (
            f"groups of {each}: rows of features [B, {channels}] would become constants; take "
            "fewer groups, or put nn.GroupNorm there yourself if it sees [B, C, L]"
        )
    return ""


def _more(layer: nn.Module) -> bool:
    """Whether a layer holds anything that a batch norm does not."""
    held = {*layer._modules, *layer._parameters, *layer._buffers}
    return not held <= _OWN


def _refusal(
    wrong: Mapping[str, str], layers: Mapping[str, nn.Module], num_groups: int | None
) -> str:
    lines = [
        f"    {name or 'the model itself'} ({type(layers[name]).__name__}): {text}"
        for name, text in wrong.items()
    ]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"    and {len(lines) - _SHOWN} more"]
    given = "" if num_groups is None else f"num_groups={num_groups}"
    head = f"convert_norm({given}): cannot convert {len(wrong)} of {len(layers)} batch norms:"
    return "\n".join([head, *lines, "  nothing was converted"])


def _group_norm(layer: _BatchNorm, num_groups: int | None) -> nn.GroupNorm:
    groups = norm.num_groups(layer.num_features) if num_groups is None else int(num_groups)
    # without parameters of its own: nothing is drawn or allocated
    new = nn.GroupNorm(groups, layer.num_features, layer.eps, affine=False)
    new.affine, new.weight, new.bias = layer.affine, layer.weight, layer.bias
    return new.train(layer.training)
