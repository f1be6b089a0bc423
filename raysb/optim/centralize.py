"""Gradient centralization (Yong et al. 2020, arXiv:2004.01461), for any optimizer.

    g_j <- g_j - mean(g_j)          g_j: the gradient of the weights of output j, M numbers

so that no output's weights move along (1, ..., 1): with plain SGD and no weight decay their sum
stays what it was at the start. Which dimension of a weight counts the outputs depends on its layer,
and a tensor does not tell: `gc_param_groups(model)` says it in the options of parameter groups.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.optim import Optimizer

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


def centralize_gradient(grad: Tensor, *, dim: int = 0, groups: int = 1) -> Tensor:
    """Subtract from the gradient of each output's weights their mean.

    Args:
        grad: Gradient of a weight [out, in, ...], or [in, out / groups, ...] with `dim=1`. Left as
            it is; a DTensor stays one, however it is sharded.
        dim: The dimension of the outputs: 0, or 1 for transposed convolutions.
        groups: Groups of a transposed convolution, in which only in / groups rows of dimension 0
            lead to an output; 1 with `dim=0`, where a group's inputs are in dimension 1 already.

    Returns:
        A new tensor of the same shape and dtype; `grad` itself where there is nothing to centre:
        at most one dimension, or one weight an output (M = 1), which would never move again.

    Raises:
        ValueError: If `dim` or `groups` does not fit.
    """
    check_layout(dim, groups)
    if grad.ndim < 2 or grad.numel() <= grad.shape[dim] * groups:
        return grad
    if groups > 1:
        # chunks, as a view that splits dimension 0 is refused where FSDP2 has sharded it
        return torch.cat([_centred(part, dim) for part in grad.chunk(groups)])
    return _centred(grad, dim)


def check_layout(dim: int, groups: int) -> None:
    """Raise `ValueError` unless (dim, groups) is what `centralize_gradient` takes."""
    if dim not in (0, 1) or groups < 1 or (dim == 0 and groups > 1):
        raise ValueError(
            f"gc_dim={dim!r}, gc_groups={groups!r}: must be 0 and 1, or 1 and the groups of a "
            "transposed convolution; else means were taken over weights of several outputs"
        )


def centralize_gradients(optimizer: OptimizerT, *, conv_only: bool = False) -> OptimizerT:
    """Have an optimizer of any class step along centred gradients.

    Around each `step()` every `p.grad` is exchanged for its centred copy, so that whoever looks at
    gradients before or after, such as `clip_grad_norm_`, sees those of the loss. State and
    `state_dict()` do not change; a copied or unpickled optimizer is a plain one again.

    Args:
        optimizer: Over `gc_param_groups(model)`, or over plain parameters, which are then taken as
            weights [out, in, ...].
        conv_only: Only weights of more than three dimensions.

    Returns:
        The same optimizer.

    Raises:
        TypeError: From `step(closure)`: the closure computes new gradients within the step.
    """
    plain: list[tuple[Tensor, Tensor]] = []

    def centre(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(given is not None for given in (*args[1:], kwargs.get("closure"))):
            raise TypeError(
                f"{type(optimizer).__name__}.step(closure): the closure's gradients come after "
                "they would be centred; call closure() before step(), or use raysb.optim.Ranger"
            )
        plain.clear()
        for group in optimizer.param_groups:
            options = {"use_gc": True, "gc_conv_only": conv_only, **group}
            found = [(p, p.grad) for p in group["params"] if p.grad is not None]
            plain.extend(found)
            for (p, _), grad in zip(found, centred([g for _, g in found], options), strict=True):
                p.grad = grad

    def put_back(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for p, grad in plain:
            p.grad = grad
        plain.clear()

    optimizer.register_step_pre_hook(centre)
    optimizer.register_step_post_hook(put_back)
    return optimizer


def centred(grads: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """Gradients of a parameter group, centred as its options say.

    | option of the group | default | meaning |
    |---|---|---|
    | `use_gc` | False | whether anything is centred |
    | `gc_conv_only` | False | only weights of more than three dimensions |
    | `gc_dim`, `gc_groups` | 0, 1 | see `centralize_gradient` |
    """
    if not group.get("use_gc"):
        return grads
    least = 4 if group.get("gc_conv_only") else 2  # the author's bounds
    layout = {"dim": group.get("gc_dim", 0), "groups": group.get("gc_groups", 1)}
    return [centralize_gradient(g, **layout) if g.ndim >= least else g for g in grads]


def gc_param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters that require a gradient, in groups that say how theirs are centred.

    | parameter of | options of its group |
    |---|---|
    | Embedding, EmbeddingBag | `use_gc=False`: a row is a word's vector, and no output's weights |
    | ConvTranspose1d, 2d, 3d: `weight` | `gc_dim=1`, and `gc_groups` where it has groups |
    | anything else | none |

    A weight that an embedding shares with another layer is the embedding's. Any optimizer of torch
    takes the groups; `Ranger` and `centralize_gradients` read the options.

    Returns:
        Groups for the first argument of an optimizer, none of them empty, that of the plain ones
        first; parameters in the model's order.
    """
    options = dict(_special(model))
    groups: dict[tuple[tuple[str, int], ...], list[nn.Parameter]] = {(): []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(options.get(parameter, ()), []).append(parameter)
    return [{"params": params, **dict(said)} for said, params in groups.items() if params]


def _special(model: nn.Module) -> Iterator[tuple[Tensor, tuple[tuple[str, int], ...]]]:
    """Parameters whose rows are not outputs, with their options; embeddings last, as they win."""
    modules = list(model.modules())
    for module in modules:
        if isinstance(module, _ConvTransposeNd):
            grouped = (("gc_groups", module.groups),) if module.groups > 1 else ()
            yield module.weight, (("gc_dim", 1), *grouped)
    for module in modules:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield module.weight, (("use_gc", False),)


def _centred(grad: Tensor, dim: int) -> Tensor:
    others = [d for d in range(grad.ndim) if d != dim]
    return grad - grad.mean(dim=others, keepdim=True)
