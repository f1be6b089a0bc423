"""The small net is the full one that does not see what was removed."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from raysb.errors import ModelError
from raysb.nn.resnet import ResNet
from raysb.prune.amounts import make_plan
from raysb.prune.graph import trace_channels
from raysb.prune.plan import FORMAT, Kept, PruningPlan
from raysb.prune.surgery import apply, is_applied

sys.path.insert(0, str(Path(__file__).parent))
from toy_nets import NETS, Dense, Plain, l1, lively, masked, pruned

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
    others = any("hidden" not in g.layers and g.least < g.num_units for g in graph.groups)
    plan = make_plan(graph, importance, amount if others else None, scope=scope, keep={"hidden": 3})
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


def grouped(groups, **norm):
    """Two layers, the second in groups: half of each leaves it depthwise where it had two."""
    return lambda: nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8) if norm else nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, groups=groups), nn.BatchNorm2d(16)),
        *(nn.Flatten(), nn.Linear(16 * 16, 5)),
    )


@pytest.mark.parametrize(
    "make",
    [*NETS, grouped(2), grouped(4), grouped(8), grouped(2, norm=True), grouped(4, norm=True)],
)
@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_two_plans_are_one(make, amount, tmp_path) -> None:
    model, plans = lively(make()), []
    small = model
    for _ in range(2):
        graph = trace_channels(small, IMAGES)
        plans.append(make_plan(graph, l1(small, graph), amount, scope="layer"))
        small = pruned(small, plans[-1])
    plans[0].then(plans[1]).save(tmp_path / "plan.safetensors")
    both = PruningPlan.load(tmp_path / "plan.safetensors")
    assert is_applied(both, small)
    assert torch.equal(pruned(model, both)(IMAGES), small(IMAGES))
    fresh = apply(both, make()).eval()
    fresh.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(fresh(IMAGES), small(IMAGES))


def test_whole_groups_of_a_convolution_go_in_the_second_round() -> None:
    make = grouped(4)
    model = lively(make())
    graph = trace_channels(model, IMAGES)
    first = make_plan(graph, l1(model, graph), 0.5, scope="layer")
    middle = pruned(model, first)
    graph = trace_channels(middle, IMAGES)
    second = make_plan(graph, l1(middle, graph), 0.5, scope="layer")
    sizes = [plan.modules["2"].sizes.tolist() for plan in (first, second, first.then(second))]
    assert sizes == [[16, 8, 4, 4], [8, 4, 4, 2], [16, 8, 4, 2]]


def test_frozen_parameters_dtypes_and_layouts_stay() -> None:
    model = Plain().to(torch.float64).to(memory_format=torch.channels_last)
    model.conv1.weight.requires_grad_(False)
    graph = trace_channels(model, IMAGES.double())
    small = pruned(model, make_plan(graph, l1(model, graph), 0.5, scope="layer"))
    assert len(small.conv1.weight) == 4
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
        save_file({"a.outputs": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"is no (safetensors file|pruning plan)"):
        PruningPlan.load(path)
    with pytest.raises(FileNotFoundError):
        PruningPlan.load(tmp_path / "gone")


def row(*numbers, dtype=torch.int64):
    return torch.tensor(numbers, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "damaged", "told"),
    [
        ("0.outputs", row(0, 1, 2, 99), "must be from 0 to 7, not 0 to 99"),
        ("0.outputs", row(-1, 0, 1, 2), "must be from 0 to 7, not -1 to 2"),
        ("0.outputs", row(0, 0, 1, 2), "must rise"),
        ("0.outputs", row(3, 1, 2, 0), "must rise"),
        ("0.outputs", row(0, 1, 2, 3, dtype=torch.float32), "must be one row of int64"),
        ("0.outputs", row(0, 1, 2, 3)[None], "must be one row of int64"),
        ("0.outputs", row(), "at least one must"),
        ("0.inputs", row(), "at least one must"),
        ("0.inputs", None, "has no tensor '0.inputs'"),
        ("0.sizes", None, "has no tensor '0.sizes'"),
        ("0.sizes", row(8, 3, 1), "must be 4 numbers"),
        ("0.sizes", row(8, 3, 1, 1, 1), "must be 4 numbers"),
        ("0.sizes", row(8, 3, 1, 1, dtype=torch.int32), "must be 4 numbers"),
        ("0.sizes", row(8, 3, 1, 0), "cannot be channels"),
        ("0.sizes", row(8, 3, 2, 2), "cannot be channels"),
        ("0.sizes", row(8, -3, 1, 1), "cannot be channels"),
        ("0.sizes", row(8, 3, 1, 7), "as many in each of 7 groups"),
        ("2.outputs", row(0, 1, 2, 3, 4, 8, 12, 13), "as many in each of 4 groups"),
        ("2.inputs", row(0, 1, 2, 4), "as many in each of 4 groups"),
        ("2.sizes", row(16, 8, 4, 3), "as many in each of 3 groups"),
        ("3.inputs", row(0), "must be none"),
        ("0.else", row(1), "'0.else' is no part"),
        ("bias", row(1), "has no tensor '.outputs'"),
    ],
)
def test_a_damaged_file_is_told_by_its_tensor(name, damaged, told, tmp_path) -> None:
    model, path = lively(grouped(4)()), tmp_path / "plan.safetensors"
    graph = trace_channels(model, IMAGES)
    make_plan(graph, l1(model, graph), 0.5, scope="layer").save(path)
    tensors = load_file(path)
    PruningPlan.load(path)
    tensors[name] = damaged
    left = {each: tensor for each, tensor in tensors.items() if tensor is not None}
    save_file(left, path, metadata=FORMAT)
    with pytest.raises(ModelError, match=r"plan\.safetensors: is a damaged pruning plan") as error:
        PruningPlan.load(path)
    assert told in str(error.value)
    assert name.rpartition(".")[0] in str(error.value)


def test_groups_of_inputs_that_are_not_those_of_the_outputs_are_refused() -> None:
    kept = Kept(row(0, 1, 4, 5), row(0, 4), row(8, 8, 4, 2))  # groups 0 and 2, all right
    other = Kept(row(0, 1, 4, 5), row(0, 6), row(8, 8, 4, 2))  # inputs of groups 0 and 3
    assert kept.wrong() == ""
    assert "same groups" in other.wrong()


def test_nothing_is_cut_where_one_module_of_a_plan_cannot_be() -> None:
    model, plan = a_plan()
    before = copy.deepcopy(model.state_dict())
    last = [*plan.modules][-1]
    broken = Kept(plan.modules[last].outputs, row(99), plan.modules[last].sizes)
    with pytest.raises(ModelError, match=f"module '{last}', inputs: must be"):
        apply(PruningPlan({**plan.modules, last: broken}), model)
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
