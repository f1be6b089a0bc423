"""The activation of a layer is the output of the activation function that follows it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysb.prune.criteria import Accumulator

torch.manual_seed(0)
X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Wrapped(nn.Module):
    """A function of x and the layers, as a model."""

    def __init__(self, function, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def seen(model: nn.Module, x: torch.Tensor = X) -> dict[str, torch.Tensor]:
    """Mean activation of each row and channel, by layer."""
    accumulator = Accumulator(model, needs={"activation"})
    with torch.no_grad(), accumulator.observe():
        model(x)
    return {name: accumulator.statistics[name].pooled.rows()[0] for name in accumulator.statistics}


def pooled(a: torch.Tensor) -> torch.Tensor:
    return a.flatten(2).mean(2) if a.dim() > 2 else a


def conv(out: int = 6, into: int = 3) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


FUNCTIONS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu_": torch.relu_,
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize("relu", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.Identity()])
def test_relu_is_found_however_it_is_written_with_a_norm_in_between(relu, norm) -> None:
    layer, head = conv(), nn.Linear(6, 4)
    model = Wrapped(
        lambda m, x: m.head(relu(m.norm(m.conv(x))).mean((2, 3))), conv=layer, norm=norm, head=head
    ).eval()
    with torch.no_grad():
        a = norm(layer(X)).clamp(min=0)
    assert torch.allclose(seen(model)["conv"], pooled(a), atol=1e-6)
    # nothing follows the head: its own output
    assert torch.allclose(seen(model)["head"], head(pooled(a)), atol=1e-6)


def test_a_pool_between_layer_and_norm_is_passed() -> None:
    layer, norm = conv(), nn.GroupNorm(2, 6)
    model = nn.Sequential(layer, nn.MaxPool2d(2), norm, nn.ReLU(inplace=True))
    a = norm(F.max_pool2d(layer(X), 2)).relu()
    assert torch.allclose(seen(model)["0"], pooled(a), atol=1e-6)


def test_one_relu_module_in_two_places_serves_both_layers() -> None:
    first, second = conv(), conv(4, 6)
    model = Wrapped(
        lambda m, x: m.relu(m.second(m.relu(m.first(x)))),
        first=first,
        second=second,
        relu=nn.ReLU(),
    )
    a = first(X).relu()
    assert torch.allclose(seen(model)["first"], pooled(a), atol=1e-6)
    assert torch.allclose(seen(model)["second"], pooled(second(a).relu()), atol=1e-6)


@pytest.mark.parametrize("add", [lambda a, b: a + b, torch.add, lambda a, b: a.add_(b)])
def test_both_branches_of_a_residual_add_have_the_relu_behind_it(add) -> None:
    branch, short = conv(), nn.Conv2d(3, 6, 1)
    model = Wrapped(lambda m, x: add(m.a(x), m.b(x)).relu(), a=branch, b=short)
    a = (branch(X) + short(X)).relu()
    for name in ("a", "b"):
        assert torch.allclose(seen(model)[name], pooled(a), atol=1e-6)


def test_behind_a_concatenation_each_layer_has_its_own_channels() -> None:
    first, second = conv(4), conv(6)
    norm = nn.BatchNorm2d(13)  # as DenseNet: norm and ReLU come after the join, with the input
    model = Wrapped(
        lambda m, x: F.relu(m.norm(torch.cat([x, m.a(x), m.b(x)], 1))), a=first, b=second, norm=norm
    ).eval()
    a = norm(torch.cat([X, first(X), second(X)], 1)).relu()
    assert torch.allclose(seen(model)["a"], pooled(a[:, 3:7]), atol=1e-6)
    assert torch.allclose(seen(model)["b"], pooled(a[:, 7:]), atol=1e-6)


def test_channels_last_of_a_linear_layer_over_positions() -> None:
    x = torch.randn(5, 7, 3)
    layer = nn.Linear(3, 4)
    model = nn.Sequential(layer, nn.LayerNorm(4), nn.GELU())
    assert torch.allclose(seen(model, x)["0"], model(x).mean(1), atol=1e-6)


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.permute(0, 2, 3, 1),  # 8 x 8 pixels and 8 channels: shapes tell nothing
        lambda h: h.transpose(1, 2),
        lambda h: h.softmax(1),
        lambda h: h[:, [1, 0, 2, 3, 4, 5, 6, 7]],
        lambda h: h.flatten(1),
        lambda h: h.roll(1, 1),
    ],
)
def test_where_channels_move_the_layer_is_taken_at_its_own_output(between) -> None:
    layer = conv(8)
    model = Wrapped(lambda m, x: between(m.a(x)).relu(), a=layer)
    assert torch.allclose(seen(model)["a"], pooled(layer(X)), atol=1e-6)


def test_the_activation_of_the_next_layer_is_not_that_of_this_one() -> None:
    first, second = conv(6), conv(6, 6)
    model = Wrapped(lambda m, x: m.b(m.a(x)).relu(), a=first, b=second)
    assert torch.allclose(seen(model)["a"], pooled(first(X)), atol=1e-6)


def test_a_gate_of_squeeze_and_excitation_is_no_activation_of_what_it_scales() -> None:
    layer, squeeze = conv(6), nn.Conv2d(6, 6, 1)
    model = Wrapped(
        lambda m, x: F.silu((h := m.a(x)) * m.s(h.mean((2, 3), keepdim=True)).sigmoid()),
        a=layer,
        s=squeeze,
    )
    h = layer(X)
    gate = squeeze(h.mean((2, 3), keepdim=True)).sigmoid()
    assert torch.allclose(seen(model)["a"], pooled(F.silu(h * gate)), atol=1e-6)
    assert torch.allclose(seen(model)["s"], pooled(gate), atol=1e-6)


def test_an_output_changed_in_place_by_something_unknown_is_recomputed() -> None:
    layer = conv(6)
    model = Wrapped(lambda m, x: m.a(x).exp_().relu(), a=layer)
    assert torch.allclose(seen(model)["a"], pooled(layer(X)), atol=1e-6)


def test_where_positions_become_rows_the_layer_is_taken_at_its_own_output() -> None:
    x, layer = torch.randn(5, 7, 3), nn.Linear(3, 4)
    model = nn.Sequential(layer, nn.Flatten(0, 1), nn.ReLU())
    assert torch.allclose(seen(model, x)["0"], layer(x).mean(1), atol=1e-6)
