"""A layer's gradients by row are those of one backward pass for each row."""

import pytest
import torch
from torch import nn

from raysb.prune.criteria import row_gradients
from raysb.prune.criteria.layers import by_channel, cost_positions
from raysb.prune.criteria.row_gradients import row_gradients as by_row

LAYERS = {
    "linear": (nn.Linear(3, 5), (6, 3)),
    "linear over positions": (nn.Linear(3, 5), (6, 4, 3)),
    "conv1d in groups": (nn.Conv1d(4, 6, 3, groups=2), (6, 4, 9)),
    "conv2d": (nn.Conv2d(3, 7, 3, stride=2, padding=1, padding_mode="circular"), (6, 3, 9, 9)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False), (6, 4, 6, 6)),
    "conv3d": (nn.Conv3d(2, 5, 2, dilation=2), (6, 2, 5, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (6, 4, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("chunk", [2**24, 100])  # all rows at once; one or two
def test_each_row_has_the_gradient_of_its_own_backward_pass(kind, chunk, monkeypatch) -> None:
    monkeypatch.setattr(row_gradients, "_CHUNK", chunk)
    layer, shape = LAYERS[kind]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    delta = torch.randn_like(layer(x))
    parts = list(by_row(layer, [(x, delta), (2 * x, delta)]))
    assert len(parts) == (1 if chunk > 100 else len(parts))
    for n, found in enumerate(torch.cat(parts)):
        (expected,) = torch.autograd.grad((layer(x[n : n + 1]) * delta[n]).sum(), layer.weight)
        assert torch.allclose(found, 3 * expected, atol=1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_weights_of_a_channel_are_those_that_its_output_depends_on(kind) -> None:
    layer, shape = LAYERS[kind]
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    out = layer(x).movedim(-1 if isinstance(layer, nn.Linear) else 1, 0)
    count = torch.arange(layer.weight.numel()).view(layer.weight.shape)
    for channel, places in enumerate(by_channel(layer, count)):
        (gradient,) = torch.autograd.grad(out[channel].sum(), layer.weight, retain_graph=True)
        assert set(gradient.flatten().nonzero().flatten().tolist()) == set(places.tolist())


@pytest.mark.parametrize("kind", ["linear", "linear over positions", "conv1d in groups", "conv3d",
                                  "transposed"])  # fmt: skip
def test_positions_are_how_often_each_weight_is_used(kind) -> None:
    """Of inputs of ones, the derivative of the sum of the outputs by a weight counts its uses."""
    layer, shape = LAYERS[kind]
    layer = layer.float()
    x = torch.ones(1, *shape[1:])
    out = layer(x)
    (uses,) = torch.autograd.grad(out.sum(), layer.weight)
    assert (uses == cost_positions(layer, x, out)).all()
