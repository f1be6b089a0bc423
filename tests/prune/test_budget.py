"""Pruning to a budget is met by the net that comes out, and takes what is worth least."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raysb.prune.budget import plan_for_budget
from raysb.prune.costs import WidthModel, energy, macs, parameters
from raysb.prune.graph import trace_channels
from raysb.prune.latency import fastest, latency, measure_latency, resized

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import NETS, GroupNormed, Plain, Residual, Separable, UpDown, l1, lively, pruned

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def operations(model, images=IMAGES):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def traced(make):
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    return model, graph, l1(model, graph)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_budget_of_operations_is_met_by_the_net_that_was_cut(make, share) -> None:
    model, graph, importance = traced(make)
    plan = plan_for_budget(graph, importance, macs(graph), share)
    assert operations(pruned(model, plan)) <= share * operations(model)


def test_a_budget_of_parameters_is_met_and_no_unit_more_than_needed_goes() -> None:
    model, graph, importance = traced(Plain)
    for share in (0.3, 0.6, 0.9):
        small = pruned(model, plan_for_budget(graph, importance, parameters(graph), share))
        left = sum(p.numel() for p in small.parameters())
        target = share * sum(p.numel() for p in model.parameters())
        assert target - 200 < left <= target  # no unit costs more than 12 * 9 + 4 * 16 + ...


class Chain(nn.Module):
    """Two hidden layers that cost the same a unit."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, x):
        return self.c(torch.relu(torch.cat([self.a(x), self.b(x)], 1)))


def test_of_units_that_cost_the_same_the_least_important_go() -> None:
    graph = trace_channels(Chain(), torch.randn(2, 4))
    importance = {
        "a": torch.tensor([6.0, 5, 4, 3, 2, 1]),
        "b": torch.tensor([1.5, 2.5, 3.5, 9, 9, 9]),
    }
    plan = plan_for_budget(graph, importance, macs(graph), 0.6, normalize=False)
    assert plan.modules["a"].outputs.tolist() == [0, 1, 2]  # 7 of 12 stay
    assert plan.modules["b"].outputs.tolist() == [2, 3, 4, 5]


def test_layers_that_are_dear_by_the_energy_table_are_cut_more() -> None:
    _, graph, importance = traced(Plain)
    plans = [
        plan_for_budget(
            graph, importance, energy(graph, {"mac": 1.0, "byte": 0.0, f"{dear}.mac": 50.0}), 0.5
        )
        for dear in ("conv1", "fc1")
    ]
    left = [
        {n: len(p.modules[n].outputs) if n in p.modules else size for n, size in SIZES.items()}
        for p in plans
    ]
    assert left[0]["conv1"] < left[1]["conv1"]
    assert left[1]["fc1"] + left[1]["conv2"] < left[0]["fc1"] + left[0]["conv2"]


SIZES = {"conv1": 8, "conv2": 12, "fc1": 16}


def test_multiples_and_exact_numbers_hold_within_a_budget() -> None:
    _, graph, importance = traced(Plain)
    plan = plan_for_budget(graph, importance, macs(graph), 0.65, keep={"conv1": 7}, round_to=4)
    assert len(plan.modules["conv1"].outputs) == 7
    for name in ("conv2", "fc1"):
        if name in plan.modules:
            assert len(plan.modules[name].outputs) % 4 == 0


def test_a_budget_that_cannot_be_met_is_told_with_what_can() -> None:
    _, graph, importance = traced(Plain)
    with pytest.raises(ValueError, match="with the fewest channels that may stay"):
        plan_for_budget(graph, importance, macs(graph), 0.001)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        plan_for_budget(graph, importance, macs(graph), 1.5)


def test_the_share_that_is_named_where_a_budget_cannot_be_met_can_be() -> None:
    for make in (Plain, Residual, GroupNormed):
        _, graph, importance = traced(make)
        for cost in (macs(graph), parameters(graph)):
            with pytest.raises(ValueError, match="smallest share that can be reached") as told:
                plan_for_budget(graph, importance, cost, 0.001)
            named = float(re.search(r"may stay, is ([0-9.]+);", str(told.value))[1])
            plan_for_budget(graph, importance, cost, named)
            with pytest.raises(ValueError, match="cannot be met"):
                plan_for_budget(graph, importance, cost, named - 0.001)


def test_the_last_step_takes_no_more_than_what_is_missing() -> None:
    """100 units of one cost; 1.5 a step, so 2 each time, until 1 is missing."""
    net = nn.Sequential(nn.Linear(4, 100, bias=False), nn.Linear(100, 5, bias=False))
    graph = trace_channels(net, torch.randn(2, 4))
    plan = plan_for_budget(graph, {"0": torch.rand(100)}, macs(graph), 0.51)
    assert len(plan.modules["0"].outputs) == 51


class Paired(nn.Module):
    """A layer whose channels go by two, one of each group of its norm; and one of single ones."""

    def __init__(self):
        super().__init__()
        self.pair, self.norm, self.one = nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.Linear(9, 4)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        nine = torch.cat([x, x, x], 1)
        return self.head(torch.cat([self.norm(self.pair(x)), self.one(nine)], 1))


def test_a_unit_is_worth_as_much_as_all_its_channels() -> None:
    """Two channels of `pair` save 2 x (3 + 3) products, as one of `one` does, 9 + 3."""
    graph = trace_channels(Paired(), torch.randn(2, 3))
    worth = {"pair": torch.ones(8), "one": torch.full((4,), 1.5)}
    plan = plan_for_budget(graph, worth, macs(graph), 0.85, normalize=False)
    assert list(plan.modules) == ["one", "head"]


def counted(layer, example):
    """A timer whose clock is torch's counter of operations."""
    return float(operations(layer, example))


@pytest.mark.parametrize("make", NETS)
def test_a_table_in_operations_adds_up_to_those_of_the_net(make) -> None:
    """Operations are bilinear in the widths, so what lies between the measured ones is exact."""
    model, graph, _ = traced(make)
    table = measure_latency(model, graph, batch_size=3, timer=counted)
    widths = WidthModel(graph)
    assert latency(table)(widths.at()) == pytest.approx(operations(model) * 3 / 2)
    units = np.maximum(widths.full * 3 // 4, 1)
    assert latency(table)(widths.at(units)) == pytest.approx(2 * 3 * macs(graph)(widths.at(units)))


def test_between_measured_widths_times_are_those_of_scipy() -> None:
    model, graph, _ = traced(Plain)
    rng = np.random.default_rng(0)
    table = measure_latency(model, graph, timer=lambda *_: rng.random())
    times = table["conv2"]
    oracle = RegularGridInterpolator((times.inputs, times.outputs), times.seconds)
    for inputs, outputs in ((2, 3), (3, 5), (7, 11), (8, 12)):
        assert times.at(inputs, outputs) == pytest.approx(float(oracle((inputs, outputs))))
    assert times.at(1, 1) == times.seconds[0, 0]


def test_layers_that_are_alike_are_measured_once() -> None:
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(5)), nn.Flatten())
    calls = []
    graph = trace_channels(model, torch.randn(2, 4, 8, 8))
    measure_latency(model, graph, points=2, timer=lambda layer, _: calls.append(layer) or 1.0)
    # the first reads the picture, the last is the output: 2, 4 and 2 pairs of widths
    assert len(calls) == 2 + 4 + 2


def test_a_budget_of_measured_time_is_met_by_the_table() -> None:
    model, graph, importance = traced(Separable)
    table = measure_latency(model, graph, timer=counted)
    plan = plan_for_budget(graph, importance, latency(table), 0.6)
    assert operations(pruned(model, plan)) <= 0.65 * operations(model)


@pytest.mark.parametrize("make", [Plain, Separable, UpDown])
def test_a_resized_layer_runs_where_the_net_has_it(make) -> None:
    model, graph, _ = traced(make)
    for name, layer in graph.layers.items():
        module = model.get_submodule(name)
        same = resized(module, len(layer.inputs), len(layer.outputs), layer.groups)
        same.load_state_dict(module.state_dict())
        if module.weight.dim() == 4:
            x = torch.randn(1, len(layer.inputs), 6, 6)
            torch.testing.assert_close(same(x), module(x))


def test_the_clock_gives_seconds_of_one_run() -> None:
    assert 0 < fastest(nn.Linear(8, 8), torch.randn(4, 8)) < 1


def test_wrong_numbers_are_told() -> None:
    model, graph, _ = traced(Plain)
    with pytest.raises(ValueError, match="batch_size=0"):
        measure_latency(model, graph, batch_size=0)
