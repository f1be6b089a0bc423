"""Which channels hang together: against Torch-Pruning, and what must be refused."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn
from torch.nn.utils import prune

from raysb.errors import ModelError
from raysb.nn.gpt import GPT
from raysb.nn.resnet import ResNet
from raysb.prune.graph import trace_channels
from raysb.prune.plan import plan_for

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import Dense, Gated, Grouped, GroupNormed, Plain, Residual, Separable, UpDown, lively

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def without(graph, name, channels):
    """The plan that removes channels of one layer, and all that goes with them."""
    kept = torch.ones(graph.num_ids, dtype=torch.bool)
    kept[graph.layers[name].outputs[channels]] = False
    return plan_for(graph, kept)


@pytest.mark.parametrize(
    ("make", "layer", "channels"),
    [
        (Plain, "conv1", [0, 3]),
        (Plain, "conv2", [1, 5, 11]),
        (Plain, "fc1", [2]),
        (Residual, "stem", [7, 1]),
        (Residual, "b", [3, 4, 5]),
        (Dense, "stem", [0, 5]),
        (Dense, "c1", [2]),
        (Separable, "stem", [1, 2]),
        (Separable, "point2", [0]),
        (lambda: ResNet(3, 5, norm="batch", blocks=(1, 1), width=8), "stem.0", [1, 6]),
    ],
)
def test_what_goes_with_a_channel_is_what_torch_pruning_finds(make, layer, channels) -> None:
    from raysb.prune.surgery import apply

    model = lively(make())
    ours = apply(without(trace_channels(model, IMAGES), layer, channels), copy.deepcopy(model))
    theirs = copy.deepcopy(model)
    found = torch_pruning.DependencyGraph().build_dependency(theirs, example_inputs=IMAGES)
    module = theirs.get_submodule(layer)
    cut = (
        torch_pruning.prune_linear_out_channels
        if isinstance(module, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )
    found.get_pruning_group(module, cut, idxs=channels).prune()
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    torch.testing.assert_close(ours(IMAGES), theirs(IMAGES), rtol=0, atol=1e-6)


def members(graph):
    """Layers of each group, its channels and its units."""
    return {each.layers: (each.num_channels, each.num_units) for each in graph.groups}


def test_a_sum_ties_the_layers_that_it_adds() -> None:
    graph = trace_channels(Residual(), IMAGES)
    assert members(graph) == {("stem", "a"): (8, 8), ("b", "short"): (16, 16)}


def test_concatenated_layers_are_ranked_apart() -> None:
    graph = trace_channels(Dense(), IMAGES)
    assert members(graph) == {("stem",): (6, 6), ("c1",): (4, 4), ("c2",): (4, 4)}
    ids = [graph.layers[name].outputs for name in ("stem", "c1", "c2")]
    assert torch.equal(graph.norms["n3"], torch.cat(ids))


def test_a_linear_layer_reads_a_channel_in_as_many_columns_as_it_has_pixels() -> None:
    graph = trace_channels(Plain(), IMAGES)
    assert torch.equal(graph.layers["fc1"].inputs.view(12, 4)[:, 0], graph.layers["conv2"].outputs)
    assert (graph.layers["fc1"].inputs.view(12, 4).diff(dim=1) == 0).all()


def test_a_depthwise_convolution_follows_its_input() -> None:
    graph = trace_channels(Separable(), IMAGES)
    assert members(graph)[("point1", "depth2")] == (12, 12)
    assert graph.layers["depth2"].outputs.view(12, 2).diff(dim=1).eq(0).all()


def test_grouped_convolutions_lose_equally_many_channels_of_each_group() -> None:
    """stem reads 4 groups of 2, mid gives 4 groups of 4."""
    assert members(trace_channels(Grouped(), IMAGES)) == {
        ("stem",): (8, 2),
        ("mid",): (16, 4),
        ("last",): (8, 8),
    }


def test_group_norms_that_overlap_keep_the_same_share_of_every_cell() -> None:
    """12 channels in 3 and in 2 groups, and behind 4 others in 4: cells of 2 and 4."""
    graph = trace_channels(GroupNormed(), IMAGES)
    sizes = {each.layers: sorted(map(len, each.cells)) for each in graph.groups}
    assert sizes[("stem", "a", "b")] == [2, 2, 4, 4, 4] or sum(sizes[("stem", "a", "b")]) == 16
    assert members(graph)[("stem", "a", "b")][1] == 2


def test_gates_tie_what_they_multiply_and_halves_keep_equally_many() -> None:
    found = members(trace_channels(Gated(), IMAGES))
    assert found == {("stem", "excite"): (8, 8), ("squeeze",): (4, 4), ("glu",): (6, 6)}


def test_a_layer_that_is_called_twice_reads_its_own_channels() -> None:
    graph = trace_channels(UpDown(), IMAGES)
    assert members(graph)[("down", "same")] == (8, 8)
    assert len(graph.layers["same"].calls) == 2


def test_what_reaches_the_output_stays() -> None:
    assert "fc2" not in trace_channels(Plain(), IMAGES).prunable
    assert "head" not in trace_channels(Residual(), IMAGES).prunable


def test_protected_layers_keep_their_outputs_and_may_lose_inputs() -> None:
    graph = trace_channels(Plain(), IMAGES, protect=["conv2"])
    assert graph.prunable == ["conv1", "fc1"]
    plan = without(graph, "conv1", [0])
    assert len(plan.modules["conv2"].outputs) == 12
    assert len(plan.modules["conv2"].inputs) == 7
    with pytest.raises(ValueError, match="did you mean 'conv2'"):
        trace_channels(Plain(), IMAGES, protect=["comv2"])


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    before = copy.deepcopy(model.state_dict())
    trace_channels(model, IMAGES)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "join",
    [
        lambda parts: torch.cat(parts, axis=1),
        lambda parts: torch.cat(tensors=parts, dim=1),
        lambda parts: torch.concatenate(parts, axis=1),
        lambda parts: torch.cat(parts, -3),
        lambda parts: torch.cat(torch.cat(parts, 1).chunk(4, 1)[:2], 1),
        lambda parts: torch.cat(torch.chunk(torch.cat(parts, 1), 4, axis=1)[2:][::-1], 1),
    ],
)
def test_concatenations_are_followed_however_they_are_spelled(join) -> None:
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return join([self.a(x), self.b(x)])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.head = Both(), nn.LazyLinear(5)

        def forward(self, x):
            return self.head(self.both(x).mean((2, 3)))

    model = Net().eval()
    model(IMAGES)
    graph = trace_channels(lively(model), IMAGES)
    place = join([torch.arange(8.0).view(1, 8, 1, 1), torch.arange(8.0, 16).view(1, 8, 1, 1)])
    ids = torch.cat([graph.layers["both.a"].outputs, graph.layers["both.b"].outputs])
    assert torch.equal(graph.layers["head"].inputs, ids[place.flatten().long()])
    assert graph.prunable == ["both.a", "both.b"]


class Odd(nn.Module):
    """A net whose forward does something between two layers."""

    def __init__(self, between, width=8):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, width, 3, padding=1), nn.Parameter(torch.ones(8, 1, 1))
        self.after, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.between = between

    def forward(self, x):
        x = self.between(self, self.conv(x))
        return self.head(self.after(x).mean((2, 3)))


def shuffled(net, x):
    rows, channels, height, width = x.shape
    return x.view(rows, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize(
    ("between", "node", "why"),
    [
        (shuffled, "view", "splits the channels"),
        (lambda net, x: x * net.scale, "mul", "a parameter or buffer of the net"),
        (lambda net, x: x + net.scale.abs(), "add", "a parameter or buffer of the net"),
        (lambda net, x: x.softmax(1), "softmax", "normalises over the channels"),
        (lambda net, x: x - x.mean(1, keepdim=True), "mean", "reduces the channels"),
        (lambda net, x: torch.flip(x, [1]), "flip", "no operation that pruning knows"),
        (lambda net, x: x[:, [1, 0, 2, 3, 4, 5, 6, 7]], "getitem", "no operation"),
        (lambda net, x: torch.cat(x.split(4, 1), 1), "split", "use chunk"),
        (lambda net, x: x.view(2, 8, -1).view(2, 8, 8, 8), "view", "is a number"),
        (lambda net, x: F.conv2d(x, net.after.weight), "conv2d", "no operation"),
        (lambda net, x: torch.einsum("nchw->nchw", x), "einsum", "no operation"),
        (lambda net, x: F.pad(x, (0, 0, 0, 0, 0, 4))[:, 4:] * 1, "pad", "pads the channels"),
        (lambda net, x: torch.cat(x.chunk(3, 1), 1), "chunk", "do not make 3 equal chunks"),
        (lambda net, x: x.flatten(0, 1).unflatten(0, (2, 8)), "flatten", "merges them with rows"),
        (lambda net, x: torch.cat(torch.split(x, 4, 1)[:1] * 2, 1), "split", "use chunk"),
        (lambda net, x: torch.cat([x.chunk(2, 1)[x.dim() - 4]] * 2, 1), "getitem", "no operation"),
        (lambda net, x: x / x.size(1), "truediv", "number of channels"),
        (lambda net, x: x * x.shape[1] ** -0.5, "mul", "number of channels"),
        (lambda net, x: x / x.shape[1:][0], "truediv", "number of channels"),
        (lambda net, x: x / x.numel(), "truediv", "number of channels"),
        (lambda net, x: x / torch.numel(x), "truediv", "number of channels"),
        (lambda net, x: x * torch.full((1,), x.size()[1]), "full", "number of channels"),
        (lambda net, x: F.dropout(x, 1 / x.size(dim=-3)), "dropout", "number of channels"),
        (lambda net, x: x.view(x.shape[:1] + (8, 8, 8)), "view", "is a number"),  # noqa: RUF005
        (lambda net, x: torch.reshape(input=x, shape=(-1, 8, 8, 8)), "reshape", "is a number"),
        (lambda net, x: x.reshape(shape=(2, 8, 8, 8)), "reshape", "is a number"),
        (lambda net, x: x.view(size=(2, 8, -1)).view(x.shape), "view", "is a number"),
        (lambda net, x: x.view(-1, x.size(0) * 4, 8, 8), "view", "is a number"),
        (lambda net, x: x.unflatten(1, (8, 1)).flatten(1, 2), "unflatten", "is a number"),
    ],
)
def test_what_is_not_understood_is_an_error_that_names_node_and_layer(between, node, why) -> None:
    with pytest.raises(ModelError, match=why) as told:
        trace_channels(Odd(between), IMAGES)
    assert f"node '{node}" in str(told.value)
    assert "Protect the layers whose channels reach it: 'conv'" in str(told.value)
    assert trace_channels(Odd(between), IMAGES, protect=["conv"]).prunable == ["after"]


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda net, x: x.flatten(2).transpose(1, 2).transpose(1, 2).view(2, -1, 8, 8),
        lambda net, x: x.view(x.shape[0], x.size(1), -1).unsqueeze(-1).view(x.shape),
        lambda net, x: torch.cat(x.split(2, dim=2), 2)[:, :, :, 0:8] * 2.0,
        lambda net, x: F.pad(F.interpolate(F.avg_pool2d(x, 2), scale_factor=2), (1, 1)),
        lambda net, x: x / 2 + torch.tanh(x).clamp(-1, 1) ** 2,
        lambda net, x: x * x[:, :, :1, :1].sigmoid(),
        lambda net, x: x * x.mean((2, 3), keepdim=True).expand_as(x),
        lambda net, x: torch.where(x > 0, x, 0.1 * x) + torch.where(x <= 1, x, 1.0),
        lambda net, x: x / (x.shape[2] * x.size(-1)) / x.size()[0] / x.shape[2:][1] / x.dim(),
        lambda net, x: torch.reshape(input=x, shape=(x.size(0), -1, 8, 8)),
        lambda net, x: torch.permute(torch.permute(input=x, dims=(0, 2, 3, 1)), (0, 3, 1, 2)),
        lambda net, x: x.view(x.shape[:2] + (-1,)).unflatten(2, (8, 8)),  # noqa: RUF005
        lambda net, x: x.view(x.size(0), x.numel() // x.size(0) // 64, 8, 8),
        lambda net, x: x.sum(axis=2, keepdim=True) + x.softmax(dim=3),
    ],
)
def test_channels_are_followed_through(between) -> None:
    graph = trace_channels(Odd(between), IMAGES)
    assert torch.equal(graph.layers["after"].inputs, graph.layers["conv"].outputs)
    assert graph.prunable == ["conv", "after"]


def test_a_sum_with_the_pictures_fixes_the_channels() -> None:
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

        def forward(self, x):
            return self.head((x + self.conv(x)).mean((2, 3)))

    assert trace_channels(Skip(), IMAGES).prunable == []


class Mixed(nn.Module):
    """A convolution and something else that meet."""

    def __init__(self, meet, other=8, **parts):
        super().__init__()
        self.conv, self.other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, other, 1)
        self.meet, self.head = meet, nn.Linear(8, 5)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.head(self.meet(self, x).mean((2, 3)))


MANY = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2))


def test_one_channel_that_is_added_to_all_stays_and_the_others_may_go() -> None:
    graph = trace_channels(Mixed(lambda net, x: net.conv(x) * net.other(x), other=1), MANY)
    assert graph.prunable == ["conv"]
    graph = trace_channels(Mixed(lambda net, x: net.conv(x) * net.other(x).expand_as(x), 1), MANY)
    assert graph.prunable == []  # as many as the pictures have


def test_channels_that_lie_beside_those_of_the_pictures_stay() -> None:
    """Along another dimension: above them, so that a channel of one is that of the other."""
    beside = Mixed(lambda net, x: torch.cat([net.conv(x), x], 2))
    assert trace_channels(beside, MANY).prunable == []
    both = Mixed(lambda net, x: torch.cat([net.conv(x), net.other(x)], 2))
    assert members(trace_channels(both, MANY)) == {("conv", "other"): (8, 8)}


def test_channels_in_a_group_with_some_that_stay_stay_too() -> None:
    """Groups of 4 over 4 free channels of a sum and 4 that are protected, in turn."""

    def meet(net, x):
        first, second = net.conv(x).chunk(2, 1)
        third, fourth = net.other(x).chunk(2, 1)
        return net.norm(torch.cat([first, third], 1)) + net.norm(torch.cat([second, fourth], 1))

    model = Mixed(meet, norm=nn.GroupNorm(2, 8))
    assert trace_channels(model, MANY).prunable == ["conv", "other"]
    assert trace_channels(model, MANY, protect=["other"]).prunable == []


def test_a_linear_layer_over_pixels_leaves_the_channels_and_keeps_its_own() -> None:
    def mix(net, x):
        return net.pixels(net.conv(x).flatten(2)).unflatten(2, (6, 6))

    graph = trace_channels(Mixed(mix, pixels=nn.Linear(36, 36)), MANY)
    assert graph.prunable == ["conv"]
    assert torch.equal(graph.layers["head"].inputs, graph.layers["conv"].outputs)


def test_a_linear_layer_that_runs_over_pixels_once_keeps_its_outputs_whatever_it_did_before() -> (
    None
):
    def mix(net, x):
        scale = net.more(net.pixels(x.flatten(2)).mean(1))[:, :, None, None]
        return scale * net.pixels(net.conv(x).flatten(2)).unflatten(2, (6, 6))

    parts = {"pixels": nn.Linear(36, 36), "more": nn.Linear(36, 8)}
    assert trace_channels(Mixed(mix, **parts), MANY).prunable == ["more", "conv"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        lambda layer: prune.random_unstructured(layer, "bias", 0.3),
    ],
)
def test_weights_that_are_made_of_others_are_refused_with_what_to_do(make) -> None:
    model = Plain()
    make(model.conv2)
    with pytest.raises(ModelError, match=r"module 'conv2': computes its (weight|bias) .*remove_"):
        trace_channels(model, IMAGES)
    assert trace_channels(model, IMAGES, protect=["conv*"]).prunable == ["fc1"]


def test_tied_weights_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    with pytest.raises(ModelError, match="module '0': shares a parameter with '2'"):
        trace_channels(model, torch.randn(4, 8))


def test_control_flow_on_values_is_told() -> None:
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"torch\.fx cannot trace it"):
        trace_channels(Branch(), IMAGES)


def test_an_example_that_does_not_fit_is_told() -> None:
    with pytest.raises(ModelError, match=r"does not run on the example of shape \(2, 7, 8, 8\)"):
        trace_channels(Plain(), torch.randn(2, 7, 8, 8))


def test_a_transformer_tells_what_to_protect_and_then_loses_hidden_units() -> None:
    tokens = torch.randint(0, 11, (2, 6))
    with pytest.raises(ModelError, match=r"'blocks\.0\.qkv'"):
        trace_channels(GPT(6, 11, width=16), tokens)
    graph = trace_channels(GPT(6, 11, width=16), tokens, protect=["blocks.*.qkv"])
    assert graph.prunable == ["blocks.0.up", "blocks.1.up"]
