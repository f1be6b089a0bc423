"""Batch norm becomes group norm: what is kept, what is refused, and what it is good for."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, group_norm

import raysb.nn
from raysb.nn.convert import convert_norm
from raysb.nn.densenet import Bottleneck
from raysb.nn.freeze import freeze
from raysb.nn.norm import has_batch_statistics
from raysb.nn.registry import build_model
from raysb.nn.settings import Model


def net(name, norm="batch", **args):
    torch.manual_seed(0)
    settings = Model(name=name, norm=norm, args=args)
    return build_model(settings, image_shape=(8, 8, 3), num_classes=10)


def randomised(layer):
    """With parameters and statistics that are not those of a fresh layer."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return layer


SHAPES = {
    nn.BatchNorm1d: [(4, 16), (4, 16, 5)],
    nn.BatchNorm2d: [(4, 16, 5, 5)],
    nn.BatchNorm3d: [(4, 16, 3, 3, 3)],
    nn.SyncBatchNorm: [(4, 16, 5, 5)],
}


@pytest.mark.parametrize(
    ("kind", "shape"), [(k, s) for k, shapes in SHAPES.items() for s in shapes]
)
@pytest.mark.parametrize("num_groups", [None, 4])
def test_every_kind_becomes_torchs_group_norm_with_its_own_parameters(kind, shape, num_groups):
    layer = randomised(kind(16, eps=0.01))
    weight, bias, x = layer.weight, layer.bias, torch.randn(shape)
    found = convert_norm(nn.Sequential(layer), num_groups)
    assert type(found[0]) is nn.GroupNorm
    assert found[0].weight is weight
    assert found[0].bias is bias
    expected = group_norm(x, num_groups or 2, weight, bias, eps=0.01)
    torch.testing.assert_close(found(x), expected, rtol=0, atol=0)
    assert not list(found.buffers())


def test_the_model_itself_may_be_a_batch_norm():
    layer = nn.BatchNorm2d(16)
    found = convert_norm(layer)
    assert type(found) is nn.GroupNorm
    assert found.weight is layer.weight


def test_a_bottleneck_of_10_channels_and_growth_2_takes_2_groups():
    """Its norms have 10 and 8 channels: `num_groups` alone would give both one group."""
    block = Bottleneck(10, 2, norm="batch")
    assert convert_norm(block, num_groups=2) is block
    assert [(n.num_groups, n.num_channels) for n in (block.norm1, block.norm2)] == [(2, 10), (2, 8)]
    assert block(torch.randn(3, 10, 4, 4)).shape == (3, 12, 4, 4)


def test_layers_are_found_in_every_kind_of_container_and_nothing_else_changes():
    inner = nn.ModuleDict({"a": nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16))})
    model = nn.ModuleList([inner, nn.BatchNorm2d(8), nn.GroupNorm(1, 8), nn.InstanceNorm2d(8)])
    others = [m for m in model.modules() if not isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    names = [name for name, _ in model.named_parameters()]
    assert convert_norm(model) is model
    assert has_batch_statistics(model) == []
    assert [name for name, _ in model.named_parameters()] == names
    assert [m for m in model.modules() if m in others] == others
    assert isinstance(inner["a"][1], nn.GroupNorm)
    assert isinstance(model[1], nn.GroupNorm)


def test_a_shared_layer_is_shared_afterwards_and_so_are_tied_parameters():
    shared, tied = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    tied.weight = shared.weight
    model = nn.Sequential(shared, nn.Sequential(shared), tied)
    convert_norm(model)
    assert model[0] is model[1][0]
    assert model[2] is not model[0]
    assert model[2].weight is model[0].weight


def test_mode_gradients_dtype_device_and_missing_parameters_stay_each_layers_own():
    model = nn.Sequential(
        nn.BatchNorm2d(8, dtype=torch.float64).eval(),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, bias=False, track_running_stats=False),
        nn.BatchNorm2d(8, device="meta"),
    )
    model[2].weight.requires_grad_(False)
    convert_norm(model)
    assert [layer.training for layer in model] == [False, True, True, True]
    assert model[0].weight.dtype == torch.float64
    assert (model[1].weight, model[1].bias, model[1].affine) == (None, None, False)
    assert (model[2].weight.requires_grad, model[2].bias) == (False, None)
    assert model[3].bias.is_meta
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(model[1](x), group_norm(x, 1), rtol=0, atol=0)


def test_an_optimizer_made_before_trains_the_model_after():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    convert_norm(model)
    before = model[1].bias.detach().clone()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[1].bias, before)


def test_a_second_conversion_changes_nothing_and_no_number_is_drawn():
    model = convert_norm(net("densenet100_12", depth=10))
    norms = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    state = torch.get_rng_state()
    assert convert_norm(model) is model
    convert_norm(nn.BatchNorm2d(8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m for m in model.modules() if isinstance(m, nn.GroupNorm)] == norms


@pytest.mark.parametrize("name", ["cnn", "densenet100_12", "resnet18", "wide_resnet28_2"])
def test_a_converted_model_is_the_one_that_is_built_with_group_norm(name):
    converted, built = convert_norm(net(name)), net(name, norm="group")
    assert converted.state_dict().keys() == built.state_dict().keys()
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), built(x), rtol=0, atol=0)


def gradient(model, x, y, weight):
    model.zero_grad()
    (weight * cross_entropy(model(x), y, reduction="none")).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["densenet100_12", "resnet18"])
def test_the_gathered_rows_have_the_gradient_of_the_masked_batch_only_without_batch_norm(name):
    args = {"depth": 22} if name.startswith("dense") else {"width": 16}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 3, 8, 8, generator=generator)
    y = torch.randint(10, (32,), generator=generator)
    batch = net(name, **args)
    for difference, model in {"large": batch, "none": convert_norm(copy.deepcopy(batch))}.items():
        with torch.no_grad():
            losses = cross_entropy(model(x), y, reduction="none")
        kept = losses.argsort()[:19]  # the lowest 60 %
        mask = torch.zeros(32).index_fill(0, kept, 1.0)
        masked = gradient(model, x, y, mask / 19)
        gathered = gradient(model, x[kept], y[kept], torch.full((19,), 1 / 19))
        relative = float((gathered - masked).norm() / masked.norm())
        assert relative < 1e-5 if difference == "none" else relative > 1e-2, relative


# --- what is refused -----------------------------------------------------------------------------


class WithActivation(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class OtherDefaults(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=0.5)


def hooked():
    layer = nn.BatchNorm2d(8)
    layer.register_forward_hook(lambda module, given, out: out.relu())
    return layer


def with_a_child():
    layer = nn.BatchNorm2d(8)
    layer.act = nn.ReLU()
    return layer


@pytest.mark.parametrize(
    ("build", "num_groups", "message"),
    [
        (partial(nn.BatchNorm2d, 10), 4, "4 groups do not divide its 10 channels"),
        (partial(WithActivation, 8), None, "does more than normalise"),
        (with_a_child, None, "does more than normalise"),
        (hooked, None, "has hooks"),
        (nn.LazyBatchNorm2d, None, "run one batch through the model first"),
        (partial(nn.BatchNorm1d, 8), 8, r"groups of 1: rows of features \[B, 8\]"),
        (partial(nn.BatchNorm1d, 8), 4, "groups of 2: .* constants"),
        (partial(nn.BatchNorm1d, 2), None, "groups of 2"),
    ],
)
def test_what_cannot_be_converted_is_named_and_nothing_is_changed(build, num_groups, message):
    model = nn.Sequential(nn.BatchNorm2d(8), nn.ModuleDict({"bad": build()}))
    before = list(model.modules())
    with pytest.raises(ValueError, match=rf"(?s)^convert_norm\(.*1\.bad \(\w+\): .*{message}") as e:
        convert_norm(model, num_groups)
    assert "nothing was converted" in str(e.value)
    assert list(model.modules()) == before
    with pytest.raises(ValueError, match="the model itself"):
        convert_norm(build(), num_groups)


def test_every_layer_that_cannot_be_converted_is_counted():
    model = nn.Sequential(*(nn.BatchNorm2d(10) for _ in range(9)), nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match=r"(?s)9 of 10 batch norms.*and 3 more"):
        convert_norm(model, 4)


def test_two_values_normalised_are_plus_and_minus_one_whatever_they_are():
    """Why rows of features in groups of two are refused."""
    out = group_norm(torch.tensor([[3.0, 5.0, -9.0, 70.0]]), 2)
    torch.testing.assert_close(out.abs(), torch.ones(1, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "error"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_a_number_of_groups_that_is_none_is_refused(given, error):
    with pytest.raises(error, match=rf"^convert_norm\(num_groups={given}\): must be"):
        convert_norm(nn.Linear(2, 2), given)


def test_a_derived_class_that_only_sets_other_defaults_is_converted():
    assert convert_norm(OtherDefaults(8)).eps == 0.5


def test_a_lazy_norm_is_converted_once_it_knows_its_channels():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    model(torch.randn(2, 16, 3, 3))
    assert convert_norm(model)[0].num_groups == 2


def test_a_frozen_batch_norm_keeps_its_statistics_and_its_place():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    freeze(model, ["0"])
    frozen = model[0]
    convert_norm(model)
    assert model[0] is frozen
    assert isinstance(model[2], nn.GroupNorm)
    assert has_batch_statistics(model) == []


def test_the_package_offers_its_functions_by_name():
    assert raysb.nn.convert_norm is convert_norm
    assert raysb.nn.has_batch_statistics is has_batch_statistics
    assert set(raysb.nn.__all__) == set(raysb.nn._HOMES)
    with pytest.raises(AttributeError, match="no attribute 'convert_norms'"):
        _ = raysb.nn.convert_norms
