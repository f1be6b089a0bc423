"""Which channels hang together: against Torch-Pruning, and what must be refused."""

import copy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

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
    prune = (
        torch_pruning.prune_linear_out_channels
        if isinstance(module, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )
    found.get_pruning_group(module, prune, idxs=channels).prune()
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
