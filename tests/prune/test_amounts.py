"""How many channels go: exact numbers, shares, multiples; and which of coupled layers."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from raysb.nn.cnn import ConvNet
from raysb.prune.amounts import channel_scores, layers_at_least, make_plan
from raysb.prune.budget import plan_for_budget
from raysb.prune.costs import macs
from raysb.prune.graph import trace_channels

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import NETS, Dense, Gated, Grouped, GroupNormed, Plain, Residual, l1, lively, pruned

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def traced(make):
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    return model, graph, l1(model, graph)


def test_a_layer_keeps_what_ln_structured_of_torch_keeps() -> None:
    model, graph, importance = traced(Plain)
    plan = make_plan(graph, importance, 0.5, scope="layer")
    for name in ("conv1", "conv2", "fc1"):
        layer = model.get_submodule(name)
        torch_prune.ln_structured(layer, "weight", amount=0.5, n=1, dim=0)
        stays = layer.weight_mask.flatten(1)[:, 0].nonzero().flatten()
        assert torch.equal(plan.modules[name].outputs, stays)


def test_the_global_ranking_is_over_values_divided_by_their_layers_norm() -> None:
    _, graph, importance = traced(Plain)
    plan = make_plan(graph, importance, 0.4)
    every = {
        (name, j): value / np.linalg.norm(importance[name].numpy())
        for name in ("conv1", "conv2", "fc1")
        for j, value in enumerate(importance[name].numpy())
    }
    gone = sorted(every, key=every.__getitem__)[: round(0.4 * 36)]
    for name in ("conv1", "conv2", "fc1"):
        wanted = [j for n, j in every if n == name and (n, j) not in gone]
        kept = plan.modules[name].outputs if name in plan.modules else torch.arange(8)
        assert kept.tolist() == wanted


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 0.5), ("sum", 1.0)])
def test_coupled_layers_are_judged_together(reduction, factor) -> None:
    _, graph, importance = traced(Residual)
    scores = channel_scores(graph, importance, reduction)
    a, b = (importance[name].double() for name in ("stem", "a"))
    wanted = factor * (a / a.norm() + b / b.norm())
    torch.testing.assert_close(scores[graph.layers["stem"].outputs], wanted)


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("amount", [0.3, 0.6, 0.999])
def test_every_layer_keeps_a_channel_and_no_more_than_asked_for_go(make, amount) -> None:
    model, graph, importance = traced(make)
    plan = make_plan(graph, importance, amount)
    total = sum(each.num_channels for each in graph.groups)
    gone = torch.ones(graph.num_ids, dtype=torch.bool)
    for name, kept in plan.modules.items():
        assert len(kept.outputs) >= 1
        if name in graph.layers:
            gone[graph.layers[name].outputs] = False
            gone[graph.layers[name].outputs[kept.outputs]] = True
    assert 0 < int((~gone).sum()) <= round(amount * total)
    assert pruned(model, plan)(IMAGES).shape == (2, 5)


def test_an_amount_is_met_exactly_where_channels_go_one_by_one() -> None:
    _, graph, importance = traced(Plain)
    for amount in (0.1, 0.25, 0.5, 0.75):
        plan = make_plan(graph, importance, amount)
        left = sum(len(k.outputs) for n, k in plan.modules.items() if n in graph.prunable)
        left += sum(len(graph.layers[n].outputs) for n in graph.prunable if n not in plan.modules)
        assert 36 - left == round(amount * 36)


def test_keep_says_exactly_how_many_channels_stay() -> None:
    model, graph, importance = traced(Plain)
    plan = make_plan(graph, importance, keep={"conv1": 3, "fc1": 16})
    assert len(plan.modules["conv1"].outputs) == 3
    assert "fc2" not in plan.modules
    assert pruned(model, plan).conv2.in_channels == 3
    best = importance["conv1"].argsort(descending=True)[:3].sort().values
    assert torch.equal(plan.modules["conv1"].outputs, best)
    plan = make_plan(graph, importance, 0.5, keep={"conv1": 8})
    assert "norm1" not in plan.modules  # the amount is of the other layers
    assert sum(len(plan.modules[n].outputs) for n in ("conv2", "fc1")) == 28 - 14


@pytest.mark.parametrize("round_to", [2, 4, 8])
@pytest.mark.parametrize("amount", [0.2, 0.4, 0.7])
def test_what_stays_is_the_nearest_multiple_or_all(round_to, amount) -> None:
    _, graph, importance = traced(Plain)
    sizes = {"conv1": 8, "conv2": 12, "fc1": 16}
    wanted = {}
    for name, size in sizes.items():
        levels = np.array([*range(round_to, size, round_to), size])[::-1]
        wanted[name] = levels[np.abs(levels - (size - round(amount * size))).argmin()]
    if wanted == sizes:
        with pytest.raises(ValueError, match="nothing would change"):
            make_plan(graph, importance, amount, scope="layer", round_to=round_to)
        return
    plan = make_plan(graph, importance, amount, scope="layer", round_to=round_to)
    left = {n: len(plan.modules[n].outputs) if n in plan.modules else sizes[n] for n in sizes}
    assert left == wanted


def test_every_group_of_a_group_norm_keeps_as_many_channels() -> None:
    _, graph, importance = traced(GroupNormed)
    plan = make_plan(graph, importance, 0.6)
    for name, groups, size in (("n1", 3, 12), ("n2", 2, 12), ("n3", 4, 16)):
        home = plan.modules[name].outputs // (size // groups)
        assert len(set(torch.bincount(home, minlength=groups).tolist())) == 1


def test_every_group_of_a_convolution_keeps_as_many_channels() -> None:
    _, graph, importance = traced(Grouped)
    plan = make_plan(graph, importance, keep={"mid": 8, "stem": 4})
    assert torch.bincount(plan.modules["mid"].outputs // 4).tolist() == [2, 2, 2, 2]
    assert torch.bincount(plan.modules["mid"].inputs // 2).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("make", "arguments", "told"),
    [
        (Plain, {}, "give amount, keep, or both"),
        (Plain, {"amount": 0}, "amount=0"),
        (Plain, {"amount": 1.0}, "below 1"),
        (Plain, {"amount": 0.5, "round_to": 0}, "round_to=0"),
        (
            Plain,
            {"amount": 0.01},
            "Of 36 channels, 1 at least may go at a time: raise amount to 0.014,",
        ),
        (Plain, {"keep": {"conv1": 8}}, "nothing would change"),
        (Plain, {"amount": 0.1, "round_to": 8, "scope": "layer"}, "lower round_to"),
        (Plain, {"amount": 0.01, "scope": "layer"}, "raise amount to 0.032,"),
        (Plain, {"amount": 0.02, "scope": "layer", "round_to": 6}, "raise amount to 0.157,"),
        (Plain, {"amount": 0.01, "keep": {"fc1": 16}}, "Of 20 channels.*raise amount to 0.026,"),
        (Plain, {"amount": 0.2, "round_to": 64}, "at a time: lower round_to"),
        (Plain, {"amount": 0.5, "keep": {"conv1": 4, "conv2": 4, "fc1": 4}}, "is left for amount"),
        (GroupNormed, {"keep": {"fc": 1}}, "from 2 to 10: each group of a norm keeps two"),
        (Plain, {"keep": {"conv1": 9}}, "must be a whole number from 1 to 8"),
        (Plain, {"keep": {"conv1": 0}}, "must be a whole number from 1 to 8"),
        (Plain, {"keep": {"conw1": 3}}, "did you mean 'conv1'"),
        (Plain, {"keep": {"fc2": 3}}, "its channels stay"),
        (Residual, {"keep": {"stem": 3, "a": 4}}, "its channels are those of 'stem' too"),
        (Grouped, {"keep": {"mid": 6}}, "multiple of 4, for equal groups, from 4 to 16"),
        (Gated, {"keep": {"glu": 5}}, "multiple of 2"),
    ],
)
def test_what_cannot_be_done_is_told(make, arguments, told) -> None:
    _, graph, importance = traced(make)
    with pytest.raises(ValueError, match=told):
        make_plan(graph, importance, **arguments)


def test_importance_must_be_there_for_every_channel() -> None:
    _, graph, importance = traced(Dense)
    with pytest.raises(ValueError, match="no entry for the layers c1"):
        make_plan(graph, {k: v for k, v in importance.items() if k != "c1"}, 0.5)
    with pytest.raises(ValueError, match=r"has shape \[3\]"):
        make_plan(graph, importance | {"c1": torch.ones(3)}, 0.5)
    with pytest.raises(ValueError, match="3 finite values"):
        make_plan(graph, importance | {"c1": torch.tensor([1, 2, 3, torch.nan])}, 0.5)


def test_of_channels_that_are_worth_nothing_the_last_ones_go() -> None:
    _, graph, importance = traced(Plain)
    plan = make_plan(graph, importance | {"conv1": torch.zeros(8)}, keep={"conv1": 3})
    assert plan.modules["conv1"].outputs.tolist() == [0, 1, 2]


def test_the_amount_that_is_named_removes_something_and_a_thousandth_less_does_not() -> None:
    for arguments in ({}, {"scope": "layer"}, {"round_to": 4}, {"scope": "layer", "round_to": 8}):
        _, graph, importance = traced(Plain)
        with pytest.raises(ValueError, match="nothing would change") as told:
            make_plan(graph, importance, 0.001, **arguments)
        named = float(re.search(r"raise amount to ([0-9.]+),", str(told.value))[1])
        assert make_plan(graph, importance, named, **arguments).modules
        with pytest.raises(ValueError, match=f"raise amount to {named:g},"):
            make_plan(graph, importance, named - 0.001, **arguments)


def test_layers_of_one_worth_shrink_alike() -> None:
    _, graph, _ = traced(Plain)
    importance = {name: torch.ones(len(graph.layers[name].outputs)) for name in graph.prunable}
    plan = make_plan(graph, importance, 12 / 36, normalize=False)
    assert "norm1" not in plan.modules  # conv1 keeps its 8, as conv2 of 12 and fc1 of 16 do
    assert [len(plan.modules[name].outputs) for name in ("conv2", "fc1")] == [8, 8]


def normed(groups, width=16):
    """A net whose first layer a group norm follows, and whose others are worth more."""
    net = nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.GroupNorm(groups, width), nn.ReLU()),
        *(nn.Conv2d(width, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)),
    )
    model = lively(net)
    graph = trace_channels(model, IMAGES)
    return model, graph, {"0": torch.rand(width), "3": 100 + torch.rand(8)}


@pytest.mark.parametrize(("groups", "least"), [(1, 2), (2, 4), (4, 8), (8, 16), (16, 1)])
@pytest.mark.parametrize("how", ["global", "layer", "rounded", "budget"])
def test_each_group_of_a_group_norm_keeps_two_channels_where_it_had_several(
    groups, least, how
) -> None:
    model, graph, worth = normed(groups)
    if how == "budget":
        plan = plan_for_budget(graph, worth, macs(graph), 0.6, normalize=False)
    else:
        scope, to = ("layer" if how == "layer" else "global"), (2 if how == "rounded" else 1)
        plan = make_plan(graph, worth, 0.97, scope=scope, round_to=to, normalize=False)
    left = len(plan.modules["0"].outputs) if "0" in plan.modules else 16
    assert left >= least
    if how != "budget":
        assert left == max(least, 2 if how == "rounded" else 1)
        ended = {"0": left == least < 16, "3": how != "rounded"}
        assert layers_at_least(graph, plan) == [name for name, told in ended.items() if told]
    pruned(model, plan).train()(IMAGES)


def test_a_global_ranking_leaves_the_widest_layer_of_the_default_net_two_channels_a_group() -> None:
    """Divided by their norms the 128 channels of the last layer are worth least, all of them."""
    model = lively(ConvNet(3, 10))
    graph = trace_channels(model, IMAGES)
    plan = make_plan(graph, l1(model, graph), 0.5)
    small = pruned(model, plan)
    norms = [module for module in small.modules() if isinstance(module, nn.GroupNorm)]
    assert all(norm.num_channels >= 2 * norm.num_groups for norm in norms)
    assert (norms[-1].num_channels, norms[-1].num_groups) == (32, 16)
    last = list(graph.layers)[-2]
    assert layers_at_least(graph, plan) == [last]
    assert sum(norm.num_channels for norm in norms) == 112  # the others give what is missing


def test_a_layer_norm_keeps_two_channels_too_and_several_layers_share_a_norm() -> None:
    _, graph, worth = traced(GroupNormed)
    assert len(make_plan(graph, worth, 0.999, scope="layer").modules["fc"].outputs) == 2

    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(4, 6), nn.Linear(4, 6), nn.LayerNorm(12)
            self.head = nn.Linear(12, 2)

        def forward(self, x):
            return self.head(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    graph = trace_channels(Joined(), torch.randn(2, 4))
    plan = make_plan(graph, {"a": torch.rand(6), "b": torch.rand(6)}, 0.999)
    assert [len(plan.modules[name].outputs) for name in ("a", "b")] == [1, 1]


def test_layers_that_end_at_their_least_are_named() -> None:
    _, graph, importance = traced(Plain)
    plan = make_plan(graph, importance, keep={"conv1": 1, "fc1": 2})
    assert layers_at_least(graph, plan) == ["conv1"]
