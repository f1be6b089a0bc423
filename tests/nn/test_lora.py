"""Low-rank updates: the equation of the paper, nothing at first, and gone once merged."""

import copy

import pytest
import torch
from torch import nn

from raysb.nn.freeze import trained_state
from raysb.nn.lora import LowRank, add_lora, merge_lora
from raysb.nn.registry import build_model
from raysb.nn.settings import Model


def drawn(model, seed=1):
    """Give every B values, as training does."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.B.weight, std=0.3, generator=generator)
    return model


def net(norm="group", name="resnet18"):
    torch.manual_seed(0)
    settings = Model(name=name, norm=norm, args={"width": 8} if name == "resnet18" else {})
    return build_model(settings, image_shape=(8, 8, 3), num_classes=4)


LAYERS = {
    "linear": (nn.Linear(7, 5), (3, 7)),
    "linear of sequences": (nn.Linear(7, 5, bias=False), (2, 4, 7)),
    "conv": (nn.Conv2d(3, 6, 3, padding=1), (2, 3, 9, 8)),
    "conv with stride, dilation and a border": (
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=2, padding_mode="reflect"),
        (2, 4, 9, 8),
    ),
    "conv 1x1": (nn.Conv2d(4, 9, 1, bias=False), (1, 4, 5, 5)),
    "conv with same padding": (nn.Conv2d(2, 3, 3, padding="same"), (2, 2, 6, 5)),
}


@pytest.mark.parametrize("rank", [1, 3, 64])
@pytest.mark.parametrize("name", LAYERS)
def test_the_output_is_that_of_the_weight_plus_b_times_a(name, rank) -> None:
    """The oracle writes W0 + (alpha / r) B A into a plain layer by einsum."""
    layer, shape = copy.deepcopy(LAYERS[name][0]).double(), LAYERS[name][1]
    plain = copy.deepcopy(layer)
    model = nn.Sequential(layer)
    add_lora(model, rank=rank, alpha=5)
    drawn(model)
    a, b = layer.lora.A.weight, layer.lora.B.weight.flatten(1)
    with torch.no_grad():
        plain.weight += 5 / rank * torch.einsum("dr,r...->d...", b, a)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18"])
def test_at_first_the_adapted_model_is_the_base_bit_for_bit(name, norm) -> None:
    base = net(norm, name).eval()
    model = copy.deepcopy(base)
    add_lora(model)
    x = torch.randn(4, 3, 8, 8)
    assert any(isinstance(m, LowRank) for m in model.modules())
    assert torch.equal(model.eval()(x), base(x))


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet18"])
def test_merged_it_is_a_plain_model_with_the_outputs_of_the_adapted_one(name) -> None:
    plain, model = net(name=name), net(name=name)
    add_lora(model, rank=4, modules_to_save=["head"])
    drawn(model)
    x = torch.randn(8, 3, 8, 8)
    expected = model.eval()(x)
    merge_lora(model)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert not any(m._forward_hooks for m in model.modules())
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(plain.eval()(x), expected, atol=1e-2)
    merged = model(x)
    merge_lora(model)  # a second time there is nothing to add
    assert torch.equal(model(x), merged)


def test_only_adapters_and_what_is_saved_whole_are_trained() -> None:
    model = net("batch")
    add_lora(model, rank=2, target_modules=["stages.3"], modules_to_save=["head", "stages.3.1"])
    names = trained_state(model).keys()
    assert {"head.weight", "head.bias", "stages.3.1.norm1.running_mean"} <= names
    rest = {n for n in names if not n.startswith(("head", "stages.3.1."))}
    expected = ("conv1", "conv2", "shortcut.0")
    assert rest == {f"stages.3.0.{layer}.lora.{ab}.weight" for layer in expected for ab in "AB"}
    assert not hasattr(model.stages[3][1].conv1, "lora")
    model.train()(torch.randn(4, 3, 8, 8)).sum().backward()
    with_grad = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_grad == {n for n in names if "running" not in n and "tracked" not in n}


def test_a_of_variance_one_over_fan_in_keeps_the_variance_of_its_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 8, 3, padding=1))
    add_lora(model, rank=256)
    assert model[0].lora.A.weight.std().item() == pytest.approx((64 * 9) ** -0.5, rel=0.01)
    assert (model[0].lora.B.weight == 0).all()


def test_scoring_in_a_fused_path_of_torch_sees_the_adapters() -> None:
    """TransformerEncoderLayer reads the weights of linear1 itself in evaluation mode."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    add_lora(layer, rank=2)
    drawn(layer)
    x = torch.randn(2, 5, 8)
    expected = layer.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-4, atol=1e-5)
    assert not hasattr(layer.self_attn.out_proj, "lora")  # torch never calls it


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"rank": 0}, r"rank=0: must be a whole number"),
        ({"rank": 2.0}, r"rank=2\.0: must be"),
        ({"rank": True}, r"rank=True"),
        ({"alpha": 0}, r"alpha=0: must be a number above 0"),
        ({"alpha": float("nan")}, r"alpha=nan"),
        ({"target_modules": ["heat"]}, r"target_modules='heat': matches no part.*'head'"),
        ({"target_modules": "head"}, r"target_modules='head': must be a list"),
        ({"modules_to_save": ["heat"]}, r"modules_to_save='heat': matches no part"),
        ({"target_modules": ["head"], "modules_to_save": ["head"]}, r"target_modules='head'"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(args, message) -> None:
    with pytest.raises(ValueError, match=rf"^model\.adapter_args\.{message}"):
        add_lora(net(name="cnn"), **args)


def test_layers_that_could_not_be_merged_are_refused() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match=r"'0' is a convolution of 2 groups.*modules_to_save"):
        add_lora(grouped)
    add_lora(grouped, target_modules=["1"])
    tied = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="'1' shares its weight"):
        add_lora(tied)


def test_a_lone_layer_is_a_model_too() -> None:
    layer = nn.Linear(3, 2)
    add_lora(layer, rank=1)
    assert layer(torch.ones(1, 3)).requires_grad
