"""What a net costs at given widths: parameters, multiply-accumulates, energy.

Channels go in units, so every layer's numbers of channels are linear in the numbers of units kept,
and a cost is known without building the net. Layers count, and what lies between them (norms,
activations, pools) only where it says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from raysb.prune.graph import ChannelGraph

Counts: TypeAlias = npt.NDArray[np.int64]
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Widths:
    """Channels of every layer at given numbers of units.

    Args:
        inputs: By layer.
        outputs: By layer.
        norms: Channels of every norm.
    """

    inputs: dict[str, int]
    outputs: dict[str, int]
    norms: dict[str, int]


Cost: TypeAlias = Callable[[Widths], float]


class WidthModel:
    """Widths of a graph's layers as a linear function of the units that each group keeps.

    Args:
        graph: Of the model.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.full: Counts = np.array([each.num_units for each in graph.groups], np.int64)
        home = torch.full((graph.num_ids,), len(graph.groups))
        for index, group in enumerate(graph.groups):
            home[torch.cat(group.cells)] = index
        self._inputs = {name: self._rows(home[each.inputs]) for name, each in graph.layers.items()}
        self._outputs = {n: self._rows(home[each.outputs]) for n, each in graph.layers.items()}
        self._norms = {name: self._rows(home[ids]) for name, ids in graph.norms.items()}

    def _rows(self, homes: torch.Tensor) -> Counts:
        """Channels for each unit of each group, then those that stay. int64 [groups + 1]"""
        found = np.bincount(homes.numpy(), minlength=len(self.full) + 1)
        found[:-1] //= np.maximum(self.full, 1)
        return found

    def at(self, units: Counts | None = None) -> Widths:
        """Widths where each group keeps so many units; by default all. int64 [groups]"""
        counts = np.append(self.full if units is None else units, 1)
        return Widths(
            *(
                {name: int(row @ counts) for name, row in rows.items()}
                for rows in (self._inputs, self._outputs, self._norms)
            )
        )


def widths_of(graph: ChannelGraph) -> Widths:
    """Widths of the net as it is."""
    return WidthModel(graph).at()


def macs(graph: ChannelGraph) -> Cost:
    """Multiply-accumulates of convolutions and linear layers for one row.

    A layer does positions x kernel x out x in / groups of them. Biases, norms, activations and
    pools are not counted; torch.utils.flop_counter counts two operations for each.
    """
    positions = {name: _positions(graph, name) for name in graph.layers}

    def cost(widths: Widths) -> float:
        return float(sum(positions[n] * _weights(graph, n, widths) for n in graph.layers))

    return cost


def macs_by_channel(graph: ChannelGraph) -> dict[str, torch.Tensor]:
    """Multiply-accumulates for one row that a net saves where one channel alone goes.

    Those of the layers that make it and of the layers that read it. Where several layers make the
    same channel (a residual sum), each is given an equal part: they add up to what is saved. Of a
    grouped convolution it is the mean over its channels, which only go together.

    Returns:
        For each prunable layer float64 [out_channels].
    """
    saved = torch.zeros(graph.num_ids, dtype=torch.float64)
    makers, prunable = torch.zeros_like(saved), graph.prunable
    for name, layer in graph.layers.items():
        out, into = (
            torch.bincount(ids, minlength=graph.num_ids).double()
            for ids in (layer.outputs, layer.inputs)
        )
        if name in prunable:
            makers += out
        pairs = out * len(layer.inputs) + into * len(layer.outputs) - out * into
        weights = layer.kernel * (out if layer.depthwise else pairs / layer.groups)
        saved += _positions(graph, name) * weights
    share = saved / makers.clamp(min=1)
    return {name: share[graph.layers[name].outputs] for name in prunable}


def parameters(graph: ChannelGraph) -> Cost:
    """Parameters of the whole model."""

    def cost(widths: Widths) -> float:
        layers = sum(
            _weights(graph, name, widths) + layer.bias * widths.outputs[name]
            for name, layer in graph.layers.items()
        )
        norms = sum(n * widths.norms[name] for name, n in graph.norm_parameters.items())
        return float(layers + norms + graph.num_other_parameters)

    return cost


def energy(graph: ChannelGraph, table: Mapping[str, float]) -> Cost:
    """Energy of one row by a table: joules, or any unit, per multiply-accumulate and per byte.

    A layer does its multiply-accumulates and moves weights, inputs and outputs once, 4 bytes each
    (Yang et al. 2017, arXiv:1611.05128, without the hierarchy of memories).

    Args:
        graph: Of the model.
        table: `mac` and `byte`, both at least 0 and one above 0; `<layer>.mac` and `<layer>.byte`
            for a layer that differs.

    Raises:
        ValueError: A key is missing, unknown or negative.
    """
    known = {"mac", "byte"} | {f"{n}.{part}" for n in graph.layers for part in ("mac", "byte")}
    if missing := [key for key in ("mac", "byte") if key not in table]:
        raise ValueError(f"energy(table={dict(table)}): {missing[0]!r} is missing")
    if wrong := [key for key in table if key not in known or not table[key] >= 0]:
        raise ValueError(
            f"energy(table): {wrong[0]!r}={table[wrong[0]]}: must be 'mac', 'byte', or one of them "
            "behind the name of a layer and a dot, and at least 0"
        )
    positions = {name: _positions(graph, name) for name in graph.layers}
    moved = {name: _activations(graph, name) for name in graph.layers}

    def cost(widths: Widths) -> float:
        total = 0.0
        for name in graph.layers:
            weights = _weights(graph, name, widths)
            into, out = moved[name]
            numbers = weights + into * widths.inputs[name] + out * widths.outputs[name]
            total += table.get(f"{name}.mac", table["mac"]) * positions[name] * weights
            total += table.get(f"{name}.byte", table["byte"]) * BYTES * numbers
        return total

    return cost


def _weights(graph: ChannelGraph, name: str, widths: Widths) -> int:
    layer = graph.layers[name]
    each = 1 if layer.depthwise else widths.inputs[name] // layer.groups
    return layer.kernel * widths.outputs[name] * each


def _positions(graph: ChannelGraph, name: str) -> float:
    """Places of one row, over all calls, where every pair of channels meets once."""
    layer = graph.layers[name]
    side = 0 if layer.transposed else 1  # a transposed convolution runs over its input
    width = len(layer.inputs if layer.transposed else layer.outputs)
    return sum(int(np.prod(call[side])) / width for call in layer.calls) / graph.num_rows


def _activations(graph: ChannelGraph, name: str) -> tuple[float, float]:
    """Numbers of one row per input channel and per output channel, over all calls."""
    layer = graph.layers[name]
    into = sum(int(np.prod(before)) for before, _ in layer.calls) / len(layer.inputs)
    out = sum(int(np.prod(after)) for _, after in layer.calls) / len(layer.outputs)
    return into / graph.num_rows, out / graph.num_rows
