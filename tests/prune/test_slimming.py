"""Sparse training of norm scales: its gradient, and that what it pulls to zero can go."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import raysb
from raysb.prune.amounts import make_plan
from raysb.prune.graph import trace_channels
from raysb.prune.slimming import scale_importance, scale_penalty, sparse_step

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import Dense, Plain, Residual, lively, pruned

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_penalty_is_the_sum_of_the_scales_sizes_and_pulls_by_their_sign() -> None:
    model = lively(Residual())
    penalty = scale_penalty(model)
    scales = [model.na.weight, model.nb.weight]
    wanted = sum(np.abs(scale.detach().numpy()).sum() for scale in scales)
    assert penalty.item() == pytest.approx(wanted, rel=1e-6)
    penalty.backward()
    assert all(torch.equal(scale.grad, scale.detach().sign()) for scale in scales)


def test_a_model_without_scales_is_refused() -> None:
    with pytest.raises(ValueError, match="no norm with scales"):
        scale_penalty(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="strength=-1"):
        sparse_step(None, None, -1)


def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, padding=1), nn.GroupNorm(1, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def trained(strength, tmp_path):
    forward, loss = raysb.inputs("image"), raysb.losses.cross_entropy("label")
    result = raysb.SelectiveTrainer(
        model=build,
        loss=loss,
        forward=forward,
        step=sparse_step(forward, loss, strength),
        datasets={"train": "digits"},
        data=raysb.Data(train="digits"),
        selector=raysb.Uniform(),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        training=raysb.Training(epochs=2, batch_size=64, num_threads=1),
        engine="local",
    ).fit()
    return raysb.load_model(result.path, model=build)


def test_the_trainer_takes_it_as_a_step(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, sparse = (trained(strength, tmp_path) for strength in (0.0, 0.2))
    sums = [scale_penalty(model).item() for model in (plain, sparse)]
    assert sums[1] < 0.8 * sums[0]


def test_channels_whose_scale_is_zero_go_without_a_trace() -> None:
    """Their norm returns a constant, its bias, which is zero too."""
    model = lively(Dense())
    graph = trace_channels(model, IMAGES)
    with torch.no_grad():
        for norm, at in ((model.n1, [2, 4]), (model.n2, [2, 4, 7]), (model.n3, [2, 4, 7, 11])):
            norm.weight[at] = 0
            norm.bias[at] = 0
    plan = make_plan(graph, scale_importance(model, graph), 4 / 14, normalize=False)
    torch.testing.assert_close(pruned(model, plan)(IMAGES), model(IMAGES), rtol=0, atol=1e-6)
    assert 2 not in plan.modules["stem"].outputs


def test_layers_without_a_norm_are_named() -> None:
    model = Plain()
    with pytest.raises(ValueError, match="channels of conv2, fc1"):
        scale_importance(model, trace_channels(model, IMAGES))
