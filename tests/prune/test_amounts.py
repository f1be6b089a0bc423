"""How many channels go: exact numbers, shares, multiples; and which of coupled layers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import prune as torch_prune

from raysb.prune.amounts import channel_scores, make_plan
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
        (Plain, {"amount": 0.01}, "36 channels that may go, 1 at least at a time"),
        (Plain, {"keep": {"conv1": 8}}, "nothing would change"),
        (Plain, {"amount": 0.1, "round_to": 8, "scope": "layer"}, "lower round_to"),
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
