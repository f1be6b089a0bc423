"""Running statistics of batch norms, taken again from rows that selection did not choose."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from raysb.nn.norm import has_batch_statistics


def recompute_batch_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> None:
    """Replace the running means and variances of a model by those of the batches given.

    Training on selected rows leaves averages of hard rows, with weights that have long changed;
    evaluation then normalises by them. One pass over rows drawn uniformly, before evaluation,
    gives those of the data and of the final weights. With M batches, as
    `torch.optim.swa_utils.update_bn` does,

        mean = 1/M sum_m mean_m        var = 1/M sum_m var_m  (unbiased, within each batch)

    Unlike there all else is in evaluation mode, as it is where the statistics will be used: nothing
    is dropped, and frozen batch norms keep theirs. Without batch norms nothing happens.

    Args:
        model: Changed in place; its modes are as before when this returns.
        batches: What the model takes, a tuple for several arguments: rows in proportion to the
            data, in batches of about one size, on the model's device; a few thousand rows do.
        forward: `(model, batch) -> Any` where the batches are something else, e.g. dicts of tensors
            for `raysb.inputs("image")`.

    Raises:
        ValueError: There is no batch. As after any error the statistics are as before.
    """
    moving = set(has_batch_statistics(model))
    layers = [m for n, m in model.named_modules() if n in moving and isinstance(m, _BatchNorm)]
    layers = [layer for layer in layers if layer.running_mean is not None]
    if not layers:
        return
    with _averaging(model, layers), torch.no_grad():
        seen = 0
        for batch in batches:
            seen += 1
            (forward or _call)(model, batch)
        if not seen:
            raise ValueError(
                "recompute_batch_statistics(batches): there is no batch, and the statistics would "
                "be those of no row; give at least one"
            )


@contextmanager
def _averaging(model: nn.Module, layers: list[_BatchNorm]) -> Iterator[None]:
    """Statistics start anew and become plain means; after an error the old ones are back."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    old = [[buffer.clone() for buffer in layer.buffers()] for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's word for a cumulative mean
        layer.training = True
    try:
        yield
    except BaseException:
        for layer, values in zip(layers, old, strict=True):
            for buffer, value in zip(layer.buffers(), values, strict=True):
                buffer.copy_(value)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode


def _call(model: nn.Module, batch: Any) -> Any:
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)
