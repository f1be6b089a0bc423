"""The gradient of a layer's weight for each row by itself."""

from collections.abc import Iterator, Sequence

import torch
from torch.func import functional_call, vjp, vmap

from raysb.prune.criteria.layers import Layer

_CHUNK = 2**24  # numbers of one chunk of rows: 64 MiB in float32


def row_gradients(
    layer: Layer, runs: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> Iterator[torch.Tensor]:
    """dl_n/dW of every row, from what the layer was given and the gradient that came back.

    Args:
        layer: A linear layer or convolution; the bias is left out.
        runs: Inputs [B, ...] and gradients at the outputs [B, ...] of each run of the layer; their
            gradients are added.

    Yields:
        [n, *W.shape] of the next n rows, in order; all chunks together B rows.
    """
    rows = len(runs[0][0])
    size = max(_CHUNK // max(layer.weight.numel(), 1), 1)
    for start in range(0, rows, size):
        part = slice(start, start + size)
        found = [_pulled_back(layer, inputs[part], delta[part]) for inputs, delta in runs]
        yield torch.stack(found).sum(0) if len(found) > 1 else found[0]


def _pulled_back(layer: Layer, inputs: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    weight = layer.weight.detach()

    def one(row: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        def outputs(w: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = functional_call(layer, {"weight": w}, (row.unsqueeze(0),))
            return result

        pull = vjp(outputs, weight)[1]
        found: torch.Tensor = pull(gradient.unsqueeze(0))[0]
        return found

    result: torch.Tensor = vmap(one)(inputs.to(weight.dtype), delta.to(weight.dtype))
    return result
