"""Costs at given widths, against torch's counter of operations and nets that were really cut."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from raysb.nn.resnet import ResNet
from raysb.prune.amounts import make_plan
from raysb.prune.costs import WidthModel, energy, macs, macs_by_channel, parameters, widths_of
from raysb.prune.graph import trace_channels
from raysb.prune.plan import plan_for

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import NETS, Grouped, GroupNormed, Plain, l1, lively, pruned

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCH_NORMED = functools.partial(ResNet, 3, 5, blocks=(1, 2), width=16, norm="batch")
BOTH = [*NETS, lambda: ResNet(3, 5, blocks=(1, 2), width=16)]


def counted(model):
    """Multiply-accumulates of one row as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGES)
    return counter.get_total_flops() / 2 / len(IMAGES)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("amount", [None, 0.3, 0.7])
def test_multiply_accumulates_are_half_the_operations_that_torch_counts(make, amount) -> None:
    model = lively(make())
    if amount is not None:
        graph = trace_channels(model, IMAGES)
        model = pruned(model, make_plan(graph, l1(model, graph), amount))
    graph = trace_channels(model, IMAGES)
    assert macs(graph)(widths_of(graph)) == counted(model)


@pytest.mark.parametrize("make", BOTH)
def test_costs_at_fewer_units_are_those_of_the_net_that_is_cut_so(make) -> None:
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    widths = WidthModel(graph)
    units = np.maximum(widths.full // 2, 1)
    kept = torch.ones(graph.num_ids, dtype=torch.bool)
    for group, number in zip(graph.groups, units, strict=True):
        for unit in group.ranked(torch.rand(graph.num_ids))[number:]:
            kept[unit] = False
    small = pruned(model, plan_for(graph, kept))
    assert macs(graph)(widths.at(units)) == counted(small)
    assert parameters(graph)(widths.at(units)) == sum(p.numel() for p in small.parameters())
    assert parameters(graph)(widths.at()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "make", [*(n for n in NETS if n not in (Grouped, GroupNormed)), BATCH_NORMED]
)
def test_what_a_channel_costs_is_what_torch_counts_less_without_it(make) -> None:
    """In all layers that make and read it: Fisher's cost term. Of nets whose channels go singly."""
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    cost = torch.zeros(graph.num_ids, dtype=torch.float64)
    for name, each in macs_by_channel(graph).items():
        cost.index_add_(0, graph.layers[name].outputs, each)
    alone = [u for g in graph.groups if g.num_units > 1 for u in g.ranked(cost) if len(u) == 1]
    assert len(alone) > 10
    for unit in alone[:: max(len(alone) // 12, 1)]:
        kept = torch.ones(graph.num_ids, dtype=torch.bool)
        kept[unit] = False
        less = counted(model) - counted(pruned(model, plan_for(graph, kept)))
        assert cost[unit].item() == pytest.approx(less)


def test_energy_is_that_of_operations_and_of_numbers_moved() -> None:
    """Worked out by hand for Plain on 8x8 pictures: weights, inputs and outputs of four layers."""
    graph = trace_channels(Plain(), IMAGES)
    operations = {"conv1": 64 * 9 * 3 * 8, "conv2": 16 * 9 * 8 * 12, "fc1": 48 * 16, "fc2": 16 * 5}
    weights = {"conv1": 9 * 3 * 8, "conv2": 9 * 8 * 12, "fc1": 48 * 16, "fc2": 16 * 5}
    numbers = {"conv1": 3 * 64 + 8 * 64, "conv2": 8 * 16 + 12 * 16, "fc1": 48 + 16, "fc2": 16 + 5}
    moved = sum(weights.values()) + sum(numbers.values())
    found = energy(graph, {"mac": 3.0, "byte": 0.5})(widths_of(graph))
    assert found == 3 * sum(operations.values()) + 0.5 * 4 * moved
    dear = energy(graph, {"mac": 3.0, "byte": 0.5, "fc1.mac": 10.0})(widths_of(graph))
    assert dear - found == 7 * operations["fc1"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"mac": 1.0}, "'byte' is missing"),
        ({"mac": 1.0, "byte": -1.0}, "'byte'=-1"),
        ({"mac": 1.0, "byte": 1.0, "conw1.mac": 2.0}, "'conw1.mac'=2"),
    ],
)
def test_an_energy_table_that_cannot_be_used_is_told(table, told) -> None:
    graph = trace_channels(Plain(), IMAGES)
    with pytest.raises(ValueError, match=told):
        energy(graph, table)
