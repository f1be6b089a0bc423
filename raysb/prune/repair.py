"""The next layer makes up for the channels that are gone, by least squares.

After channel pruning (He et al. 2017, arXiv:1707.06168) and ThiNet (Luo et al. 2017,
arXiv:1707.06342), layer by layer in the order of the forward pass: with inputs x of the small net
and outputs y of the full one at the same places,

    min over W, b of  sum || y - W x - b ||^2

The step from the weights at hand is the one of least norm, so directions in which the inputs do not
vary stay as they were. Labels are not needed.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.conv import _ConvNd

from raysb.prune.plan import PruningPlan

Arguments = Sequence[Any]


def repair(
    full: nn.Module,
    small: nn.Module,
    plan: PruningPlan,
    batches: Iterable[Arguments],
    *,
    rows: int = 8192,
    seed: int = 0,
) -> list[str]:
    """Fit every layer that reads fewer channels to the outputs it had; changes `small`.

    Convolutions in groups and transposed ones are left as they are.

    Args:
        full: The model before pruning, with its weights.
        small: What `apply` made of a copy of it.
        plan: Between the two.
        batches: Arguments of forward. All of them are kept, and run twice for each layer.
        rows: Places (of linear layers: rows) that are fitted to, drawn evenly from all batches;
            a few times the weights of an output. They take 8 bytes x inputs x kernel each.
        seed: Of that draw.

    Returns:
        Names of the layers that were fitted, in order.

    Raises:
        ValueError: There is no batch.
    """
    kept = [tuple(batch) for batch in batches]
    if not kept or rows < 1:
        raise ValueError(f"repair(batches={len(kept)}, rows={rows}): at least one of each")
    modes = [(m, m.training) for model in (full, small) for m in model.modules()]
    try:
        full.eval()
        small.eval()
        fitted = [name for name in _order(small, kept[0]) if _reads_less(small, plan, name)]
        for name in fitted:
            _fit(name, full, small, plan, kept, -(-rows // len(kept)), seed)
    finally:
        for module, mode in modes:
            module.training = mode
    return fitted


def _reads_less(small: nn.Module, plan: PruningPlan, name: str) -> bool:
    kept = plan.modules.get(name)
    if kept is None or int(kept.sizes[2]) > 1 or len(kept.inputs) == int(kept.sizes[1]):
        return False
    return not getattr(small.get_submodule(name), "transposed", False)


def _order(model: nn.Module, args: Arguments) -> list[str]:
    """Names of the layers in the order of their first call."""
    called: dict[str, None] = {}
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, _ConvNd | nn.Linear)]
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: called.setdefault(name))
        for name, module in layers
    ]
    with torch.no_grad():
        model(*args)
    for handle in handles:
        handle.remove()
    return list(called)


def _fit(
    name: str,
    full: nn.Module,
    small: nn.Module,
    plan: PruningPlan,
    batches: Sequence[Arguments],
    rows: int,
    seed: int,
) -> None:
    layer: Any = small.get_submodule(name)
    inputs, outputs = [], []
    for number, args in enumerate(batches):
        generator = torch.Generator().manual_seed(seed + number)
        x = patches(layer, _seen(small, name, args)[0])
        y = _places(layer, _seen(full, name, args)[1])[:, plan.modules[name].outputs]
        chosen = torch.randperm(len(x), generator=generator)[:rows].to(x.device)
        inputs.append(x[chosen].double())
        outputs.append(y[chosen].double())
    design, wanted = torch.cat(inputs), torch.cat(outputs)
    weights = layer.weight.detach().flatten(1).double().T
    if layer.bias is not None:
        design = torch.cat([design, design.new_ones(len(design), 1)], 1)
        weights = torch.cat([weights, layer.bias.detach().double()[None]])
    design, wanted, weights = design.cpu(), wanted.cpu(), weights.cpu()
    # gelsd: of all solutions the step of least norm, whatever the rank
    step = torch.linalg.lstsq(design, wanted - design @ weights, driver="gelsd").solution
    _set(layer, (weights + step).T)


def _set(layer: Any, found: torch.Tensor) -> None:
    """Weights, and in the last column the bias where there is one. float64 [out, columns]"""
    with torch.no_grad():
        width = layer.weight[0].numel()
        layer.weight.copy_(found[:, :width].view(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(found[:, width])


def _seen(model: nn.Module, name: str, args: Arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of a layer, of its last call."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = model.get_submodule(name).register_forward_hook(
        lambda _, given, output: found.append((given[0].detach(), output.detach()))
    )
    with torch.no_grad():
        model(*args)
    hook.remove()
    return found[-1]


def patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What each output of a layer is a product of the weights with. [places, in x kernel]

    Args:
        layer: Linear, or a convolution in one group.
        x: Its input, [B, ..., in] or [B, in, ...].
    """
    if not isinstance(layer, _ConvNd):
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for dim, size in enumerate(layer.kernel_size):
        step, gap = layer.stride[dim], layer.dilation[dim]
        x = x.unfold(2 + dim, gap * (size - 1) + 1, step)[..., ::gap]
    spatial = len(layer.kernel_size)
    order = [0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial)]
    return x.permute(order).reshape(-1, layer.weight[0].numel())


def _places(layer: nn.Module, y: torch.Tensor) -> torch.Tensor:
    """Outputs at the same places. [places, out]"""
    return (y.movedim(1, -1) if isinstance(layer, _ConvNd) else y).reshape(
        -1, y.shape[1 if isinstance(layer, _ConvNd) else -1]
    )
