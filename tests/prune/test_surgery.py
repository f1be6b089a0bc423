"""The small net is the full one that does not see what was removed."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from raysb.errors import ModelError
from raysb.nn.resnet import ResNet
from raysb.prune.amounts import make_plan
from raysb.prune.graph import trace_channels
from raysb.prune.plan import PruningPlan
from raysb.prune.surgery import apply

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import NETS, Dense, GroupNormed, Plain, l1, lively, masked, pruned

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("amount", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_small_net_equals_the_full_one_with_what_goes_masked(make, amount, scope) -> None:
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    plan = make_plan(graph, l1(model, graph), amount, scope=scope)
    small = pruned(model, plan)
    torch.testing.assert_close(small(IMAGES), masked(model, plan)(IMAGES), rtol=1e-5, atol=1e-6)
    count = sum(p.numel() for p in small.parameters())
    assert count < sum(p.numel() for p in model.parameters())


class Random(nn.Module):
    """A net that a list of numbers describes: one block for each."""

    def __init__(self, blocks):
        super().__init__()
        self.kinds, self.blocks, width = [kind for kind, _ in blocks], nn.ModuleList(), 3
        for kind, size in blocks:
            width, block = getattr(self, f"_{kind}")(width, size)
            self.blocks.append(block)
        self.hidden, self.head = nn.Linear(width * 4, 6), nn.Linear(6, 3)

    def _conv(self, width, size):
        return 4 * size, nn.ModuleList([nn.Conv2d(width, 4 * size, 3, padding=1)])

    def _batch(self, width, size):
        return width, nn.ModuleList([nn.BatchNorm2d(width)])

    def _group(self, width, size):
        groups = next(g for g in (size, 2, 1) if width % g == 0)
        return width, nn.ModuleList([nn.GroupNorm(groups, width)])

    def _residual(self, width, size):
        pair = [nn.Conv2d(width, 4 * size, 1), nn.Conv2d(4 * size, width, 3, padding=1)]
        return width, nn.ModuleList(pair)

    def _dense(self, width, size):
        return width + 2 * size, nn.ModuleList([nn.Conv2d(width, 2 * size, 3, padding=1)])

    def _depthwise(self, width, size):
        return width, nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, groups=width)])

    def _grouped(self, width, size):
        groups = next(g for g in (size, 2, 1) if width % g == 0)
        return 4 * groups, nn.ModuleList([nn.Conv2d(width, 4 * groups, 1, groups=groups)])

    def _gated(self, width, size):
        return 2 * size, nn.ModuleList([nn.Conv2d(width, 4 * size, 1)])

    def forward(self, x):
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            if kind == "residual":
                x = x + block[1](torch.relu(block[0](x)))
            elif kind == "dense":
                x = torch.cat([block[0](x), x], 1)
            elif kind == "gated":
                value, gate = block[0](x).chunk(2, 1)
                x = value * torch.sigmoid(gate)
            else:
                x = torch.relu(block[0](x))
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        return self.head(torch.relu(self.hidden(torch.flatten(x, 1))))


KINDS = ["conv", "batch", "group", "residual", "dense", "depthwise", "grouped", "gated"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    blocks=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(1, 4)), min_size=1, max_size=7),
    amount=st.floats(0.1, 0.9),
    scope=st.sampled_from(["global", "layer"]),
    seed=st.integers(0, 9),
)
def test_random_nets_run_pruned_and_equal_the_masked_ones(blocks, amount, scope, seed) -> None:
    model = lively(Random(blocks), seed)
    graph = trace_channels(model, IMAGES)
    importance = l1(model, graph)
    plan = make_plan(graph, importance, amount, scope=scope, keep={"hidden": 3})
    small = pruned(model, plan)
    wanted = masked(model, plan)(IMAGES).detach()
    torch.testing.assert_close(
        small(IMAGES), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max() + 1)
    )
    trace_channels(small, IMAGES)  # and can be pruned again


@pytest.mark.parametrize("make", NETS)
def test_a_plan_from_a_file_makes_a_fresh_net_that_takes_the_pruned_weights(make, tmp_path) -> None:
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    plan = make_plan(graph, l1(model, graph), 0.5)
    small = pruned(model, plan)
    plan.save(tmp_path / "plan.safetensors")
    fresh = apply(PruningPlan.load(tmp_path / "plan.safetensors"), make())
    fresh.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(IMAGES), small(IMAGES))


def test_two_plans_are_one() -> None:
    model = lively(GroupNormed())
    graph = trace_channels(model, IMAGES)
    first = make_plan(graph, l1(model, graph), keep={"fc": 7})
    middle = pruned(model, first)
    graph = trace_channels(middle, IMAGES)
    second = make_plan(graph, l1(middle, graph), 0.5)
    both = pruned(model, first.then(second))
    assert torch.equal(both(IMAGES), pruned(middle, second)(IMAGES))


def test_frozen_parameters_dtypes_and_layouts_stay() -> None:
    model = Plain().to(torch.float64).to(memory_format=torch.channels_last)
    model.conv1.weight.requires_grad_(False)
    graph = trace_channels(model, IMAGES.double())
    small = pruned(model, make_plan(graph, l1(model, graph), 0.5))
    assert not small.conv1.weight.requires_grad
    assert small.conv2.weight.requires_grad
    assert small.conv2.weight.dtype == torch.float64
    assert small.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.conv2.weight.is_contiguous()


def test_a_pruned_net_trains() -> None:
    model = Dense()
    graph = trace_channels(model, IMAGES)
    small = pruned(model, make_plan(graph, l1(model, graph), 0.5)).train()
    small(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def a_plan():
    model = lively(Plain())
    graph = trace_channels(model, IMAGES)
    return model, make_plan(graph, l1(model, graph), 0.5)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Dense, "module 'conv1' should have 8 channels out, 3 in, 1 groups, but there is none"),
        (lambda: Plain(nn.InstanceNorm2d), None),
        (lambda: ResNet(3, 5), "there is none"),
    ],
)
def test_a_plan_refuses_a_model_that_it_does_not_fit(other, told) -> None:
    _, plan = a_plan()
    if told is None:
        apply(plan, other())  # the same sizes: of another norm, but nothing is wrong
        return
    with pytest.raises(ModelError, match=told):
        apply(plan, other())


def test_a_plan_is_not_applied_twice_nor_in_part() -> None:
    model, plan = a_plan()
    small = pruned(model, plan)
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(ModelError, match="was not pruned yet"):
        apply(plan, small)
    assert all(torch.equal(before[name], each) for name, each in small.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"something else", None])
def test_a_file_that_is_no_plan_is_refused(content, tmp_path) -> None:
    path = tmp_path / "plan.safetensors"
    if content is None:
        from safetensors.torch import save_file

        save_file({"a.outputs": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is no (safetensors file|pruning plan)"):
        PruningPlan.load(path)
    with pytest.raises(FileNotFoundError):
        PruningPlan.load(tmp_path / "gone")
