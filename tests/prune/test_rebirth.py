"""Rounds of pruning and training: what is handed on, and the guard that ends them."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raysb.prune.amounts import make_plan
from raysb.prune.graph import trace_channels
from raysb.prune.rebirth import Outcome, gain, outcome, prune_and_rebirth

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import Plain, l1, lively, pruned

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def halved(model):
    graph = trace_channels(model, IMAGES[:2])
    return pruned(model, make_plan(graph, l1(model, graph), 0.5, scope="layer"))


def taught(parent):
    """Training that leaves the net no worse than before: one small step towards the parent."""

    def train(model):
        student = copy.deepcopy(model)
        loss = (student(IMAGES) - parent(IMAGES).detach()).square().mean()
        gradient = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(student.parameters(), gradient, strict=True):
                parameter.sub_(0.01 * slope)
        return student

    return train


def classes(model):
    return model(IMAGES).argmax(1)


def test_every_round_starts_from_the_last_one_and_the_parent_stays() -> None:
    parent = lively(Plain())
    before = copy.deepcopy(parent.state_dict())
    found = prune_and_rebirth(parent, halved, taught(parent), classes, rounds=3, agreement=0)
    assert [r.small.conv1.out_channels for r in found.rounds] == [4, 2, 1]
    assert found.undone is None
    for each in found.rounds:
        wanted = float((classes(each.reborn) == classes(parent)).double().mean())
        assert each.agreement == wanted
        assert not torch.equal(each.small.fc2.weight, each.reborn.fc2.weight)
    assert all(torch.equal(before[name], each) for name, each in parent.state_dict().items())


def test_the_round_that_falls_below_the_bound_is_undone_and_the_last() -> None:
    """A net whose answer is one class: agreement is the share of rows where the parent says it."""
    parent = lively(Plain())
    own = classes(parent)
    calls = []

    def train(model):
        calls.append(model)
        answers = copy.deepcopy(model)
        if len(calls) == 2:
            with torch.no_grad():
                answers.fc2.weight.zero_()
                answers.fc2.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0]))
        return answers

    first = float((classes(halved(parent)) == own).double().mean())
    second = float((own == 0).double().mean())
    assert second < first
    bound = (first + second) / 2
    found = prune_and_rebirth(parent, halved, train, classes, rounds=5, agreement=bound)
    assert len(calls) == 2
    assert [each.agreement for each in found.rounds] == [first]
    assert found.undone is not None
    assert found.undone.agreement == second
    exact = prune_and_rebirth(parent, halved, copy.deepcopy, classes, rounds=1, agreement=first)
    assert len(exact.rounds) == 1  # a bound that is just met counts


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"agreement": 1.1}, {"agreement": -0.1}])
def test_numbers_out_of_range_are_told(wrong) -> None:
    with pytest.raises(ValueError, match="must be at least 1, and in"):
        prune_and_rebirth(Plain(), halved, copy.deepcopy, classes, **wrong)


def test_gains_are_ratios_of_parameters_and_of_operations() -> None:
    parent = lively(Plain())
    small = halved(parent)

    def operations(model: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(IMAGES)
        return counter.get_total_flops()

    found = gain(parent, small, IMAGES, times=3)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (parent, small)]
    assert found.parameters == sizes[0] / sizes[1]
    assert found.macs == operations(parent) / operations(small)
    assert found.seconds > 0


def test_an_outcome_tells_each_round_and_survives_json() -> None:
    parent = lively(Plain())
    found = prune_and_rebirth(parent, halved, taught(parent), classes, rounds=2, agreement=0)
    errors = {id(parent): 0.1}
    errors |= {id(each.small): e for each, e in zip(found.rounds, (0.2, 0.3), strict=True)}
    errors |= {id(each.reborn): 0.15 for each in found.rounds}
    told = outcome(parent, found, lambda net: errors[id(net)], IMAGES, times=2)
    assert (told.parent, told.before, told.after) == (0.1, (0.2, 0.3), (0.15, 0.15))
    assert told.agreement == tuple(each.agreement for each in found.rounds)
    again = Outcome.from_json(json.loads(json.dumps(told.as_json())))
    assert again == told
    assert str(told).startswith("parent 10.00%, by round 20.00% to 15.00% (agreement ")
    assert f"{told.gain.macs:.1f} times fewer MACs" in str(told)


def test_where_the_first_round_is_undone_the_parent_is_what_is_left() -> None:
    parent = lively(Plain())

    def forgetful(model):
        return torch.full((64,), -1 if model is not parent else 0)

    found = prune_and_rebirth(parent, halved, copy.deepcopy, forgetful, rounds=2)
    told = outcome(parent, found, lambda net: 0.1, IMAGES, times=1)
    assert (told.before, told.after, told.gain.parameters, told.gain.macs) == ((), (), 1, 1)
    assert told.undone == 0
    assert "undone (agreement 0.000)" in str(told)
