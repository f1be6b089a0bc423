"""The next layer makes up for what is gone, against numpy's least squares and exact cases."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysb.prune.amounts import make_plan
from raysb.prune.graph import trace_channels
from raysb.prune.repair import patches, repair

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import Dense, Grouped, GroupNormed, Plain, Residual, l1, lively, pruned

IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCHES = [(IMAGES[:32],), (IMAGES[32:],)]


def cut(make, **arguments):
    model = lively(make())
    graph = trace_channels(model, IMAGES[:2])
    plan = make_plan(graph, l1(model, graph), **arguments)
    return model, plan, pruned(model, plan)


@pytest.mark.parametrize("bias", [True, False])
def test_the_new_weights_are_those_of_numpys_least_squares(bias) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, 2, padding=1, bias=bias)
    )
    model = lively(net)
    graph = trace_channels(model, IMAGES[:2])
    plan = make_plan(graph, l1(model, graph), keep={"0": 3})
    small = pruned(model, plan)
    assert repair(model, small, plan, BATCHES, rows=10**6) == ["2"]
    with torch.no_grad():
        inputs = F.unfold(torch.relu(small[0](IMAGES)), 3, padding=1, stride=2)
        wanted = model(IMAGES).permute(0, 2, 3, 1).reshape(-1, 4).double().numpy()
    design = inputs.permute(0, 2, 1).reshape(-1, 27).double().numpy()
    if bias:
        design = np.hstack([design, np.ones((len(design), 1))])
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    np.testing.assert_allclose(small[2].weight.detach().flatten(1), solution[:, :27], atol=1e-5)
    if bias:
        np.testing.assert_allclose(small[2].bias.detach(), solution[:, 27], atol=1e-5)


def test_a_layer_that_loses_outputs_too_is_fitted_to_those_that_stay() -> None:
    model = lively(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 3)))
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    graph = trace_channels(model, x)
    worth = {"0": torch.arange(6.0) + 1, "2": torch.tensor([1.0, 4, 2, 3])}
    plan = make_plan(graph, worth, keep={"0": 3, "2": 2})
    small = pruned(model, plan)
    assert repair(model, small, plan, [(x,)]) == ["2", "3"]
    with torch.no_grad():
        design = np.hstack([torch.relu(model[0](x))[:, 3:].double(), np.ones((40, 1))])
        wanted = model[:3](x)[:, [1, 3]].double().numpy()
    solution = np.linalg.lstsq(design, wanted, rcond=None)[0].T
    np.testing.assert_allclose(small[2].weight.detach(), solution[:, :3], atol=1e-5)
    np.testing.assert_allclose(small[2].bias.detach(), solution[:, 3], atol=1e-5)


@pytest.mark.parametrize("make", [Plain, Residual, Dense, GroupNormed, Grouped])
def test_outputs_come_closer_to_those_of_the_full_net(make) -> None:
    model, plan, small = cut(make, amount=0.4)
    with torch.no_grad():
        before = (small(IMAGES) - model(IMAGES)).square().mean()
        repair(model, small, plan, BATCHES)
        after = (small(IMAGES) - model(IMAGES)).square().mean()
    assert after < 0.7 * before


def test_a_channel_that_is_the_sum_of_others_is_made_up_for_exactly() -> None:
    model = lively(nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)))
    with torch.no_grad():
        for part in (model[0].weight, model[0].bias):
            part[5] = part[1] + 2 * part[3]
    graph = trace_channels(model, torch.randn(2, 5))
    worth = {"0": torch.tensor([6.0, 5, 4, 3, 2, 1])}
    plan = make_plan(graph, worth, keep={"0": 5})
    small = pruned(model, plan)
    x = torch.randn(50, 5)
    assert (small(x) - model(x)).abs().max() > 0.1
    repair(model, small, plan, [(x,)])
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-5)


def test_directions_that_the_rows_do_not_show_keep_their_weights() -> None:
    """A step of least norm: with too few rows the solution of least norm would forget them."""
    model = lively(nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 3, bias=False)))
    graph = trace_channels(model, torch.randn(2, 5))
    plan = make_plan(graph, l1(model, graph), keep={"0": 5})
    small = pruned(model, plan)
    before = small[1].weight.detach().clone()
    x = torch.randn(2, 5)
    repair(model, small, plan, [(x,)])
    seen = small[0](x).detach()
    unseen = torch.linalg.svd(seen).Vh[2:].T
    torch.testing.assert_close(small[1].weight @ unseen, before @ unseen, rtol=0, atol=1e-5)
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 5, (3, 2), (2, 1), (1, 0), (1, 2)), (2, 4, 9, 8)),
        (nn.Conv2d(4, 5, 3, padding="same", padding_mode="reflect"), (2, 4, 6, 6)),
        (nn.Conv1d(4, 5, 3, 2), (2, 4, 9)),
        (nn.Conv3d(4, 5, 2), (2, 4, 4, 5, 6)),
        (nn.Linear(4, 5), (2, 7, 4)),
    ],
)
def test_patches_times_weights_are_the_outputs(layer, shape) -> None:
    x = torch.randn(shape)
    found = patches(layer, x) @ layer.weight.flatten(1).T + layer.bias
    wanted = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
    torch.testing.assert_close(found, wanted.reshape(-1, 5), rtol=0, atol=1e-5)


def test_the_full_net_and_the_modes_are_left_alone() -> None:
    model, plan, small = cut(Plain, amount=0.4)
    before = copy.deepcopy(model.state_dict())
    small.train()
    repair(model, small, plan, BATCHES)
    assert small.training
    assert not model.training
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_without_rows_there_is_nothing_to_fit_to() -> None:
    model, plan, small = cut(Plain, amount=0.4)
    with pytest.raises(ValueError, match="batches=0"):
        repair(model, small, plan, [])
