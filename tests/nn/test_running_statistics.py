"""Running statistics from uniform rows: those of torch's own `update_bn`."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import raysb
from raysb.nn.freeze import freeze
from raysb.nn.registry import build_model
from raysb.nn.running_statistics import recompute_batch_statistics
from raysb.nn.settings import Model


def batches(count=5, rows=8):
    generator = torch.Generator().manual_seed(3)
    return [2 + 3 * torch.randn(rows, 3, 8, 8, generator=generator) for _ in range(count)]


def net():
    torch.manual_seed(0)
    model = build_model(Model(name="cnn", norm="batch"), image_shape=(8, 8, 3), num_classes=4)
    model(100 * torch.randn(4, 3, 8, 8))  # statistics of other rows
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_gives_the_statistics_of_torchs_update_bn():
    model, expected = net(), net()
    recompute_batch_statistics(model, batches())
    update_bn(batches(), expected)
    assert equal(state(model), state(expected))


def test_of_one_layer_they_are_the_means_over_the_batches():
    layer, given = nn.BatchNorm2d(3, momentum=0.3), batches()
    recompute_batch_statistics(layer, given)
    stacked = np.stack([batch.numpy() for batch in given])  # [M, B, C, H, W]
    mean = stacked.mean((1, 3, 4)).mean(0)
    var = stacked.var((1, 3, 4), ddof=0) * (8 * 64) / (8 * 64 - 1)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, var.mean(0), rtol=1e-5)
    assert layer.momentum == 0.3


@pytest.mark.parametrize("training", [True, False])
def test_modes_momentum_and_weights_stay_as_they_are(training):
    model = net().train(training)
    model.stages[0].train(not training)
    modes = [m.training for m in model.modules()]
    weights = [p.detach().clone() for p in model.parameters()]
    recompute_batch_statistics(model, batches())
    assert [m.training for m in model.modules()] == modes
    assert all(map(torch.equal, model.parameters(), weights))
    assert all(p.grad is None for p in model.parameters())
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_nothing_is_dropped_as_nothing_will_be_where_they_are_used():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    alone = nn.BatchNorm2d(3)
    recompute_batch_statistics(model, batches())
    update_bn(batches(), alone)
    assert equal(state(model[1]), state(alone))


def test_a_frozen_batch_norm_keeps_its_own():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    freeze(model, ["0"])
    before, last = state(model[0]), state(model[2])
    recompute_batch_statistics(model, batches())
    assert equal(state(model[0]), before)
    assert not equal(state(model[2]), last)


def test_without_statistics_no_batch_is_asked_for():
    def none():
        raise RuntimeError("asked")
        yield

    recompute_batch_statistics(nn.GroupNorm(1, 3), none())
    recompute_batch_statistics(nn.BatchNorm2d(3, track_running_stats=False), none())


@pytest.mark.parametrize("count", [0, 2])
def test_after_an_error_the_old_statistics_are_back(count):
    def failing():
        yield from batches(count)
        raise RuntimeError("the disk is gone")

    model = net()
    before, modes = state(model), [m.training for m in model.modules()]
    with pytest.raises(ValueError, match=r"^recompute_batch_statistics\(batches\): there is no"):
        recompute_batch_statistics(model, [])
    with pytest.raises(RuntimeError, match="the disk is gone"):
        recompute_batch_statistics(model, failing())
    assert equal(state(model), before)
    assert [m.training for m in model.modules()] == modes
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_batches_may_be_arguments_or_whatever_a_forward_takes():
    images = torch.randint(0, 256, (3, 8, 8, 8, 3), dtype=torch.uint8)
    forward = raysb.inputs("image", mean=(0.5,) * 3, std=(0.2,) * 3)
    normal = [((each / 255 - 0.5) / 0.2).permute(0, 3, 1, 2) for each in images]
    models = [net() for _ in range(3)]
    recompute_batch_statistics(models[0], [{"image": each} for each in images], forward)
    recompute_batch_statistics(models[1], [(each,) for each in normal])
    recompute_batch_statistics(models[2], normal)
    for model in models[1:]:
        for name, tensor in state(model).items():
            torch.testing.assert_close(tensor, models[0].state_dict()[name], rtol=1e-4, atol=1e-5)


def test_evaluation_after_training_on_hard_rows_only_is_mended():
    """Rows of high loss lie elsewhere: their averages normalise the rest wrongly."""
    easy, hard = batches(4), [each + 20 for each in batches(4)]
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False, momentum=None))
    for batch in hard:
        model(batch)
    whole = torch.cat(easy)
    biased = model.eval()(whole).mean().abs()
    recompute_batch_statistics(model, easy)
    torch.testing.assert_close(model(whole).mean(), torch.zeros(()), rtol=0, atol=1e-3)
    assert biased > 1
    assert copy.deepcopy(model)(whole).std() == pytest.approx(1, abs=0.05)
