"""Gradient centralization: its definition, its theorem, and which axes are an output's."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raysb.optim import Ranger, centralize_gradient, centralize_gradients, gc_param_groups

LAYERS = {
    "linear": nn.Linear(6, 4),
    "conv1d": nn.Conv1d(6, 4, 3),
    "conv2d": nn.Conv2d(6, 4, 3),
    "conv3d": nn.Conv3d(6, 4, 2),
    "grouped conv": nn.Conv2d(6, 4, 3, groups=2),
    "transposed 1d": nn.ConvTranspose1d(6, 4, 3),
    "transposed 2d": nn.ConvTranspose2d(6, 4, 3),
    "transposed 3d": nn.ConvTranspose3d(6, 4, 2),
    "grouped transposed": nn.ConvTranspose2d(6, 4, 3, groups=2),
}


def outputs_of_a_constant(layer):
    """Each output channel's sum of weights, read off the layer itself: its answer to ones.

    The pixels of a picture of ones are summed, which for a transposed convolution of a single
    pixel meets every weight of the output once; a convolution gets a picture of the kernel's size.
    """
    layer = copy.deepcopy(layer)
    nn.init.zeros_(layer.bias)
    if isinstance(layer, nn.Linear):
        return layer(torch.ones(1, 6)).flatten()
    size = layer.kernel_size if "Transpose" not in type(layer).__name__ else (1,) * 3
    pixels = torch.ones(1, 6, *size[: layer.weight.ndim - 2])
    return layer(pixels).flatten(2).sum(2).flatten()


def loss_of(layer):
    """A loss whose gradient differs from weight to weight."""
    generator = torch.Generator().manual_seed(3)
    return (layer.weight * torch.randn(layer.weight.shape, generator=generator)).square().sum()


@pytest.mark.parametrize("name", LAYERS)
def test_steps_of_sgd_along_centred_gradients_keep_every_outputs_sum_of_weights(name):
    """The theorem of the paper: 1^T w stays at its initial value, here for [out] outputs."""
    layer = copy.deepcopy(LAYERS[name])
    before = outputs_of_a_constant(layer)
    start = layer.weight.detach().clone()
    optimizer = centralize_gradients(
        torch.optim.SGD(gc_param_groups(layer), lr=0.05, momentum=0.9, nesterov=True)
    )
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(layer).backward()
        optimizer.step()
    assert not torch.allclose(layer.weight, start, atol=1e-2)
    torch.testing.assert_close(outputs_of_a_constant(layer), before, rtol=0, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    seed=st.integers(0, 2**16),
    momentum=st.sampled_from([0.0, 0.9]),
)
def test_the_theorem_holds_for_weights_of_any_shape(shape, seed, momentum):
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
    sums = p.detach().flatten(1).sum(1)
    optimizer = centralize_gradients(torch.optim.SGD([p], lr=0.1, momentum=momentum))
    single = p[0].numel() == 1
    for _ in range(4):
        p.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    after = p.detach().flatten(1).sum(1)
    assert single or torch.allclose(after, sums, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(shape=st.lists(st.integers(2, 4), min_size=2, max_size=5), seed=st.integers(0, 2**16))
def test_centring_is_a_projection(shape, seed):
    """P g is orthogonal to (1, ..., 1), P P = P, and g - P g is the same for all of an output."""
    g = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centred = centralize_gradient(g)
    mean = g.numpy().reshape(shape[0], -1).mean(axis=1)
    expected = g.numpy() - mean.reshape(-1, *[1] * (len(shape) - 1))
    torch.testing.assert_close(centred, torch.from_numpy(expected))
    torch.testing.assert_close(centralize_gradient(centred), centred)


def test_a_grouped_transposed_convolution_is_as_many_of_them_side_by_side():
    g = torch.randn(6, 2, 3, 3)  # 3 groups of 2 inputs and 2 outputs
    parts = [centralize_gradient(part, dim=1) for part in g.split(2)]
    torch.testing.assert_close(centralize_gradient(g, dim=1, groups=3), torch.cat(parts))


@pytest.mark.parametrize("shape", [(), (5,), (5, 1), (5, 1, 1, 1)])
def test_where_an_output_has_one_weight_nothing_is_centred(shape):
    """`Linear(1, n)` would never be trained: its centred gradient is zero."""
    g = torch.randn(shape)
    assert centralize_gradient(g) is g


def test_a_gradient_is_not_changed_in_place():
    g = torch.randn(3, 4)
    kept = g.clone()
    centralize_gradient(g)
    assert torch.equal(g, kept)


@pytest.mark.parametrize(("dim", "groups"), [(2, 1), (-1, 1), (0, 2), (1, 0)])
def test_a_layout_that_no_layer_has_is_refused(dim, groups):
    with pytest.raises(ValueError, match=rf"gc_dim={dim}, gc_groups={groups}: must be 0 and 1"):
        centralize_gradient(torch.zeros(4, 4), dim=dim, groups=groups)


class Everything(nn.Module):
    """One of each kind, and an embedding whose weights are those of the head."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 4, 3)
        self.words = nn.Embedding(5, 4)
        self.bags = nn.EmbeddingBag(5, 4)
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.up_grouped = nn.ConvTranspose1d(4, 2, 2, groups=2)
        self.head = nn.Linear(4, 5)
        self.head.weight = self.words.weight
        self.frozen = nn.ConvTranspose2d(4, 2, 2).requires_grad_(False)
        self.table = nn.Parameter(torch.zeros(2, 3))


def test_groups_say_what_a_tensor_does_not():
    model = Everything()
    names = {p: name for name, p in model.named_parameters()}
    groups = {}
    for group in gc_param_groups(model):
        options = tuple(sorted((k, v) for k, v in group.items() if k != "params"))
        groups[options] = {names[p] for p in group["params"]}
    assert groups == {
        (): {"plain.weight", "plain.bias", "up.bias", "up_grouped.bias", "head.bias", "table"},
        (("use_gc", False),): {"words.weight", "bags.weight"},
        (("gc_dim", 1),): {"up.weight"},
        (("gc_dim", 1), ("gc_groups", 2)): {"up_grouped.weight"},
    }


def test_embeddings_are_not_centred_and_anything_else_is():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    seen = {}
    optimizer = centralize_gradients(torch.optim.SGD(gc_param_groups(model), lr=1.0))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.tensor([0, 1, 1])).square().sum().backward()
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    for name, old, p in zip(names, before, model.parameters(), strict=True):
        seen[name] = torch.allclose(p, old - p.grad)
    assert seen == {"0.weight": True, "1.weight": False, "1.bias": True}


def test_whoever_looks_at_gradients_sees_those_of_the_loss():
    layer = nn.Linear(3, 2)
    seen = []
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert centralize_gradients(optimizer) is optimizer
    optimizer.register_step_pre_hook(lambda *_: seen.append(layer.weight.grad.clone()))
    layer(torch.randn(4, 3)).square().sum().backward()
    kept, value = layer.weight.grad, layer.weight.grad.clone()
    optimizer.step()
    assert layer.weight.grad is kept
    assert torch.equal(kept, value)
    torch.testing.assert_close(seen[0], centralize_gradient(value))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.RAdam(p, lr=0.1, decoupled_weight_decay=True),
    ],
)
def test_any_optimizer_steps_as_if_the_loss_had_the_centred_gradient(make):
    torch.manual_seed(0)
    a, b = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    ours, plain = centralize_gradients(make([a])), make([b])
    for _ in range(5):
        a.grad = torch.randn(3, 4)
        b.grad = a.grad - a.grad.mean(1, keepdim=True)
        ours.step()
        plain.step()
        assert torch.equal(a, b)
    assert ours.state_dict()["param_groups"] == plain.state_dict()["param_groups"]


def test_the_centralized_radam_is_ranger_without_lookahead():
    torch.manual_seed(0)
    layers = nn.Embedding(7, 9), nn.Unflatten(2, (3, 3)), nn.ConvTranspose2d(2, 4, 2, groups=2)
    models = [nn.Sequential(*layers, nn.Conv2d(4, 2, 2))]
    models.append(copy.deepcopy(models[0]))
    same = {"lr": 0.01, "betas": (0.95, 0.999), "eps": 1e-5}
    optimizers = [
        centralize_gradients(
            torch.optim.RAdam(gc_param_groups(models[0]), decoupled_weight_decay=True, **same)
        ),
        Ranger(gc_param_groups(models[1]), k=0, **same),
    ]
    for _ in range(8):
        x = torch.randint(7, (3, 2))
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    pairs = zip(*(model.parameters() for model in models), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_conv_only_leaves_weights_of_up_to_three_dimensions_alone():
    layers = nn.Linear(2, 3), nn.Conv1d(2, 3, 2), nn.Conv2d(2, 3, 2)
    parameters = [layer.weight for layer in layers]
    optimizer = centralize_gradients(torch.optim.SGD(parameters, lr=1.0), conv_only=True)
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = torch.randn(p.shape)
    optimizer.step()
    for p, old in zip(parameters[:2], before, strict=False):
        torch.testing.assert_close(p, old - p.grad)
    conv = parameters[2]
    torch.testing.assert_close(conv, before[2] - centralize_gradient(conv.grad))


def test_a_step_that_computes_gradients_by_itself_is_refused():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = centralize_gradients(torch.optim.SGD([p], lr=0.1))
    for call in (lambda: optimizer.step(lambda: 0.0), lambda: optimizer.step(closure=lambda: 0.0)):
        with pytest.raises(TypeError, match=r"SGD\.step\(closure\): .*call closure\(\) before"):
            call()
    optimizer.step(None)
