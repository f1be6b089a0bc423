"""A pass of its own for statistics, where no other pass gives them."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.random import fork_rng

from raysb.errors import ModelError
from raysb.nn.evaluation import evaluation_mode
from raysb.prune.criteria.accumulator import GRADIENT_ROWS, POOLED_ROWS, Accumulator
from raysb.prune.criteria.layers import (
    Layer,
    find_layers,
    prunable_layers,
    weights_require_grad,
)
from raysb.prune.criteria.statistics import Statistics


def collect(
    model: nn.Module,
    forward: Callable[[nn.Module, Any], Any],
    loss: Callable[[Any, Any], torch.Tensor],
    batches: Iterable[Any],
    needs: Collection[str],
    *,
    layers: Sequence[str] | None = None,
    row_weights: Callable[[Any], torch.Tensor] | None = None,
    pooled_rows: int = POOLED_ROWS,
    gradient_rows: int = GRADIENT_ROWS,
) -> Statistics:
    """Run a model over batches in evaluation mode and add up what criteria need.

    Parameters, their gradients, buffers, modes and random states are the same before and after.

    Args:
        model: On its device.
        forward: `(model, batch) -> outputs`.
        loss: `(outputs, batch) -> float [B]`, one loss a row; called where gradients are needed.
        batches: Batches of tensors on the model's device, each drawn from the population as it is
            or with weights; at least one row in all.
        needs: Kinds of statistics, the union of the criteria's `needs`.
        layers: Names; by default every convolution and linear layer.
        row_weights: `(batch) -> [B]`, how much each row counts; by default alike.
        pooled_rows: As of `Accumulator`.
        gradient_rows: As of `Accumulator`.

    Raises:
        ValueError: There is no batch, or an argument is out of its range.
        ModelError: The losses are not one number a row, or the layers' outputs have no rows.
    """
    names = prunable_layers(model) if layers is None else list(layers)
    kinds = frozenset(needs) - {"weight"}
    accumulator = Accumulator(
        model, names, needs=needs, pooled_rows=pooled_rows, gradient_rows=gradient_rows
    )
    if not kinds:
        return accumulator.statistics
    modules = list(find_layers(model, names).values())
    gradients = bool(kinds - {"activation"})
    count = 0
    with (
        fork_rng(devices=_cuda(model)),
        evaluation_mode(model),
        weights_require_grad(modules),
        torch.set_grad_enabled(gradients),
    ):
        for count, batch in enumerate(batches, start=1):  # noqa: B007
            with accumulator.observe(None if row_weights is None else row_weights(batch)):
                outputs = forward(model, batch)
                if gradients:
                    _differentiate(loss(outputs, batch), modules)
    if not accumulator.statistics.rows:
        raise ValueError(
            f"collect(batches=): {count} batches without a row that counts; {sorted(kinds)} are "
            "means over rows: give at least one"
        )
    return accumulator.statistics


def _differentiate(losses: Any, layers: Sequence[Layer]) -> None:
    """Send each row's gradient back through the layers; no parameter's `grad` is touched."""
    if not isinstance(losses, torch.Tensor) or losses.dim() != 1:
        got = f"shape {list(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses)
        raise ModelError(
            f"collect(loss=): gave {got}; one loss a row is needed, [B]: give a loss with "
            "reduction='none', as raysb.losses has them"
        )
    weights = [weight for layer in layers for weight in layer.parameters()]
    if losses.requires_grad:  # else observe() tells that nothing came back
        torch.autograd.grad(losses.sum(), weights, allow_unused=True)


def _cuda(model: nn.Module) -> list[torch.device]:
    """The GPUs that the model lies on."""
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
