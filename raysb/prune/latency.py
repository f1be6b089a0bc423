"""Measured seconds of every layer at several widths, and between them (NetAdapt's table).

Yang et al. 2018, arXiv:1804.03230: the time of a net is taken as the sum over its layers, each read
from a table of measurements of that layer alone on the machine at hand.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raysb.prune.costs import Cost, Widths
from raysb.prune.graph import ChannelGraph, Layer

Floats = npt.NDArray[np.float64]
Timer = Callable[[nn.Module, torch.Tensor], float]


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of one layer on a grid of widths.

    Args:
        inputs: Numbers of input channels, rising. [n]
        outputs: Numbers of output channels, rising. [m]
        seconds: float64 [n, m]
    """

    inputs: Floats
    outputs: Floats
    seconds: Floats

    def at(self, inputs: float, outputs: float) -> float:
        """Seconds between the measured widths: linear in each; beyond them those at the edge."""
        columns = [float(np.interp(inputs, self.inputs, column)) for column in self.seconds.T]
        return float(np.interp(outputs, self.outputs, columns))


def latency(table: dict[str, LayerTimes]) -> Cost:
    """The cost of a net by a table with an entry for each layer: the sum of their seconds."""

    def cost(widths: Widths) -> float:
        return sum(
            times.at(widths.inputs[name], widths.outputs[name]) for name, times in table.items()
        )

    return cost


def measure_latency(
    model: nn.Module,
    graph: ChannelGraph,
    *,
    batch_size: int = 1,
    points: int = 5,
    timer: Timer | None = None,
) -> dict[str, LayerTimes]:
    """Measure every layer at some of its widths; layers that are alike are measured once.

    Args:
        model: Of the graph; gives kernels, strides and the device. Is not changed.
        graph: Its channels.
        batch_size: Rows of a measurement, at least 1.
        points: Widths that are measured of a prunable side of a layer, at least 2.
        timer: `(layer, input) -> seconds`; by default the fastest of 5 times, after a warm-up.
    """
    if batch_size < 1 or points < 2:
        raise ValueError(
            f"measure_latency(batch_size={batch_size}, points={points}): must be at least 1 and 2"
        )
    done: dict[object, LayerTimes] = {}
    found = {}
    for name, layer in graph.layers.items():
        module = model.get_submodule(name)
        alike = (str(module), layer.calls, *_grid(graph, layer, points))
        if alike not in done:
            done[alike] = _measure(module, graph, layer, batch_size, points, timer or fastest)
        found[name] = done[alike]
    return found


def _grid(graph: ChannelGraph, layer: Layer, points: int) -> tuple[tuple[int, ...], ...]:
    """Widths in and out; one where nothing can go, and of a depthwise layer the same for both."""
    sides = []
    for ids in (layer.inputs, layer.outputs):
        most, step = len(ids), layer.groups if not layer.depthwise else 1
        free = bool(graph.free[ids].any())
        wanted = np.linspace(1 / points, 1, points) * most if free else np.array([most])
        steps = np.unique(np.maximum(np.round(wanted / step), 1)).astype(int) * step
        sides.append(tuple(int(each) for each in steps if each <= most))
    return tuple(sides)


def _measure(
    module: Any, graph: ChannelGraph, layer: Layer, rows: int, points: int, timer: Timer
) -> LayerTimes:
    inputs, outputs = _grid(graph, layer, points)
    multiple = len(layer.outputs) // len(layer.inputs)
    if layer.depthwise:  # as many outputs a channel as ever
        seconds = [
            _seconds(module, layer, graph.num_rows, rows, n, n * multiple, timer) for n in inputs
        ]
        return LayerTimes(_floats(inputs), _floats([1]), _floats(seconds)[:, None])
    times = [
        [_seconds(module, layer, graph.num_rows, rows, n, m, timer) for m in outputs]
        for n in inputs
    ]
    return LayerTimes(_floats(inputs), _floats(outputs), _floats(times))


def _floats(values: Iterable[Any]) -> Floats:
    return np.array(list(values), np.float64)


def _seconds(
    module: Any, layer: Layer, had: int, rows: int, inputs: int, outputs: int, timer: Timer
) -> float:
    """Seconds of all calls of a layer of these widths for `rows` rows."""
    alone = resized(module, inputs, outputs, inputs if layer.depthwise else layer.groups)
    total = 0.0
    for before, _ in layer.calls:
        shape = [rows * before[0] // had, *before[1:]]
        shape[-1 if isinstance(module, nn.Linear) else len(shape) - layer.spatial - 1] = inputs
        example = torch.randn(shape, device=module.weight.device, dtype=module.weight.dtype)
        if example.dim() == 4:
            example = example.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            total += timer(alone.eval(), example)
    return total


def resized(module: Any, inputs: int, outputs: int, groups: int) -> nn.Module:
    """A layer like another one with other widths; its weights are drawn."""
    kind = {"device": module.weight.device, "dtype": module.weight.dtype}
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return nn.Linear(inputs, outputs, bias=bias, **kind)
    names = ["kernel_size", "stride", "padding", "dilation", "padding_mode"]
    if module.transposed:
        names.append("output_padding")
    same = {name: getattr(module, name) for name in names}
    made: nn.Module = type(module)(inputs, outputs, groups=groups, bias=bias, **same, **kind)
    if module.weight.dim() == 4:
        made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def fastest(
    layer: nn.Module,
    example: torch.Tensor,
    *,
    times: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of the fastest of some runs, each of about a millisecond or more.

    Args:
        layer: In evaluation mode.
        example: What it is called with.
        times: Runs.
        clock: In seconds; `time.process_time` counts only what this process computes.
    """
    layer(example)
    began = clock()
    layer(example)
    _wait(example)
    once = max(clock() - began, 1e-7)
    inner = max(1, min(int(1e-3 / once), 1000))
    best = float("inf")
    for _ in range(times):
        began = clock()
        for _ in range(inner):
            layer(example)
        _wait(example)
        best = min(best, (clock() - began) / inner)
    return best


def _wait(example: torch.Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize(example.device)
