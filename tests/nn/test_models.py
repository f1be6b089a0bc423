"""Every family against closed forms: parameters, shapes, start, and what the norm promises."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from raysb.nn.densenet import Bottleneck
from raysb.nn.norm import has_batch_statistics
from raysb.nn.registry import build_model
from raysb.nn.resnet import BasicBlock
from raysb.nn.settings import Model
from raysb.nn.wide_resnet import PreActivationBlock

IMAGE_MODELS = ("cnn", "densenet100_12", "resnet18", "resnet34", "wide_resnet28_2")
ALL_MODELS = (*IMAGE_MODELS, "mlp")


def build(name, norm="group", shape=(32, 32, 3), num_classes=10, **args):
    torch.manual_seed(0)
    return build_model(
        Model(name=name, norm=norm, args=args), image_shape=shape, num_classes=num_classes
    )


def count(model):
    return sum(p.numel() for p in model.parameters())


def pictures(rows, shape=(32, 32, 3)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, shape[2], *shape[:2], generator=generator)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_173_962),  # kuangliu/pytorch-cifar, and many papers since
        ("resnet34", 21_282_122),
        ("wide_resnet28_2", 1_467_610),  # Oliver et al. 2018 and FixMatch's "1.5 M"
        ("densenet100_12", 769_162),  # andreasveit/densenet-pytorch; "0.8 M" in the paper
    ],
)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_residual_and_dense_nets_have_the_published_number_of_parameters(name, parameters, norm):
    assert count(build(name, norm=norm)) == parameters


def test_resnet18_has_torchvisions_parameters_but_for_the_stem_and_the_head():
    """torchvision's resnet18 has 11,689,512: stem 7x7, and a head of 1,000 classes."""
    stem = 3 * 64 * (7 * 7 - 3 * 3)
    head = (512 + 1) * (1000 - 10)
    assert count(build("resnet18", norm="batch")) == 11_689_512 - stem - head


@pytest.mark.parametrize(("depth", "growth"), [(10, 1), (22, 12), (40, 24)])
def test_densenet_has_the_parameters_of_its_closed_form(depth, growth):
    channels, expected = 2 * growth, 9 * 3 * 2 * growth
    for block in range(3):
        for _ in range((depth - 4) // 6):
            inner = 4 * growth
            expected += 2 * (channels + inner) + channels * inner + 9 * inner * growth
            channels += growth
        if block < 2:
            expected += 2 * channels + channels * (channels // 2)
            channels //= 2
    expected += 2 * channels + (channels + 1) * 10
    assert count(build("densenet100_12", depth=depth, growth=growth)) == expected


def test_a_bottleneck_adds_channels_to_those_it_was_given():
    x = torch.randn(2, 10, 5, 5)
    y = Bottleneck(10, 2)(x)
    assert y.shape == (2, 12, 5, 5)
    assert torch.equal(y[:, :10], x)


def test_a_densenet_halves_the_picture_and_its_channels_twice():
    model = build("densenet100_12", depth=10).eval()
    sizes = []
    with torch.no_grad():
        x = model.stem(pictures(1))
        for layer in model.blocks:
            x = layer(x)
            sizes.append(tuple(x.shape[1:3]))
    assert sizes == [(36, 32), (18, 16), (30, 16), (15, 8), (27, 8)]


def test_cnn_has_the_parameters_of_its_closed_form():
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128)
    norms = 2 * (32 + 64 + 128)
    assert count(build("cnn")) == convolutions + norms + (128 + 1) * 10
    second = 9 * (32 * 32 + 64 * 64 + 128 * 128)
    assert count(build("cnn", convs=2)) == convolutions + second + 2 * norms + (128 + 1) * 10


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_mlp_has_the_parameters_of_its_closed_form(norm):
    widths = (28 * 28, 32, 16, 10)
    linear = sum((i + 1) * o for i, o in pairwise(widths))
    norms = 0 if norm == "none" else 2 * (32 + 16)
    assert count(build("mlp", norm=norm, shape=(28, 28), hidden=[32, 16])) == linear + norms


def test_mlp_without_hidden_layers_is_a_linear_model():
    model = build_model(Model(name="mlp", args={"hidden": []}), num_features=5, num_classes=1)
    x = torch.randn(7, 5)
    torch.testing.assert_close(model(x), x @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 14, 3), (28, 28, 1), (33, 32, 4)])
def test_any_picture_of_eight_pixels_or_more_gives_one_row_of_logits(name, shape):
    model = build(name, shape=shape, num_classes=7).eval()
    with torch.no_grad():
        logits = model(pictures(2, shape))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "wide_resnet28_2"])
def test_residual_nets_halve_the_picture_where_they_should(name):
    model = build(name).eval()
    with torch.no_grad():
        x = model.stem(pictures(1))
        sizes = [x.shape[-1]]
        for stage in model.stages:
            x = stage(x)
            sizes.append(x.shape[-1])
    assert sizes == ([32, 32, 16, 8] if name.startswith("wide") else [32, 32, 16, 8, 4])


@pytest.mark.parametrize("name", ALL_MODELS)
def test_memory_format_does_not_change_the_result(name):
    model, x = build(name).eval(), pictures(4)
    with torch.no_grad():
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)
        got = last(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize("norm", ["group", "none"])
def test_without_batch_statistics_a_rows_logits_do_not_depend_on_the_others(name, norm):
    model, x = build(name, norm=norm).train(), pictures(6)
    assert has_batch_statistics(model) == []
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:2], model(x[:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL_MODELS)
def test_with_batch_norm_every_norm_layer_is_named(name):
    model = build(name, norm="batch")
    assert len(has_batch_statistics(model)) == str(model).count("BatchNorm")
    assert not any(isinstance(m, nn.GroupNorm) for m in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet28_2"])
@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_residual_branch_starts_at_zero(name, norm):
    model = build(name, norm=norm).eval()
    blocks = [m for m in model.modules() if isinstance(m, BasicBlock | PreActivationBlock)]
    assert len(blocks) == (8 if name == "resnet18" else 12)
    for block in blocks:
        x = torch.relu(torch.randn(2, block.conv1.in_channels, 8, 8))
        unchanged = (
            block.conv1.in_channels == block.conv1.out_channels and block.conv1.stride[0] == 1
        )
        with torch.no_grad():
            if unchanged:
                assert torch.equal(block(x), x)
            block.conv1.weight.mul_(3.0)  # nothing of the branch may show
            before = block(x)
            block.conv1.weight.zero_()
            assert torch.equal(block(x), before)


@pytest.mark.parametrize("name", ALL_MODELS)
@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_no_parameter_is_dead_once_the_zero_start_is_left(name, norm):
    """A zero in front of a ReLU would never get a gradient; one step must wake every parameter."""
    model = build(name, norm=norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    labels = torch.arange(8) % 10
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures(8)), labels).backward()
        optimizer.step()
    dead = [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    # a bias in front of a batch norm does not matter; the models leave those of convolutions out
    assert [n for n in dead if not (name == "mlp" and norm == "batch" and "bias" in n)] == []


@pytest.mark.parametrize("name", ALL_MODELS)
def test_first_losses_lie_near_those_of_a_guess(name):
    model = build(name)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(pictures(64)), torch.arange(64) % 10).item()
    assert abs(loss - math.log(10)) < 1.0


def test_he_weights_have_the_variance_of_the_paper():
    model = build("cnn", channels=[64, 256])
    second = model.stages[1][0].weight
    assert second.var().item() == pytest.approx(2 / (9 * 256), rel=0.02)
    hidden = build("mlp", hidden=[512]).layers[0].weight
    assert hidden.var().item() == pytest.approx(2 / (32 * 32 * 3), rel=0.02)


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_a_convolution_has_a_bias_only_without_a_norm(norm):
    for name in IMAGE_MODELS:
        convolutions = [m for m in build(name, norm=norm).modules() if isinstance(m, nn.Conv2d)]
        biased = [m for m in convolutions if m.bias is not None]
        if norm == "none":
            assert biased
        else:
            assert not biased


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("cnn", {"channels": []}),
        ("cnn", {"convs": 0}),
        ("mlp", {"hidden": [16, 0]}),
        ("wide_resnet28_2", {"depth": 27}),
        ("densenet100_12", {"depth": 41}),
        ("densenet100_12", {"depth": 4}),
        ("densenet100_12", {"growth": 0}),
        ("resnet18", {"width": 0}),
        ("resnet18", {"blocks": [2, 0]}),
    ],
)
def test_impossible_sizes_are_refused_with_their_key(name, args):
    with pytest.raises(ValueError, match=rf"^model\.args.*{next(iter(args))}"):
        build(name, **args)
