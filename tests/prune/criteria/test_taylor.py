"""Both Taylor criteria against autograd on explicit gates and per-row gradients of torch.func."""

import pytest
import torch

from raysb.prune.criteria import collect, find_criterion

POSITIONS = {"conv1": 64, "conv2": 9, "fc": 1}


def importance(case, name: str, batches, **args) -> dict[str, torch.Tensor]:
    found = collect(case.model, case.forward, case.loss, batches, {"gradient"})
    return find_criterion(name, **args).importance(case.model, case.layers, found)


def test_taylor_on_activations_is_the_normalised_mean_of_absolute_mean_products(case) -> None:
    found = importance(case, "taylor_act", case.batches)
    for name in case.layers:
        change = (case.row_terms(name) / POSITIONS[name]).abs().mean(0)
        assert torch.allclose(found[name], change / change.norm(), rtol=1e-9)


def test_taylor_of_channels_without_influence_is_0(case) -> None:
    with torch.no_grad():
        case.model.fc.weight.zero_()
    assert importance(case, "taylor_act", case.batches)["conv2"].eq(0).all()


def test_taylor_on_weights_squares_the_mean_of_each_batch(case) -> None:
    expected = dict.fromkeys(case.layers, 0.0)
    for batch in case.batches:
        case.model.zero_grad()
        case.loss(case.forward(case.model, batch), batch).mean().backward()
        for name in case.layers:
            weight = dict(case.model.named_modules())[name].weight
            expected[name] += (weight.grad * weight.detach()).flatten(1).sum(1) ** 2 / 3
    found = importance(case, "taylor", case.batches)
    for name in case.layers:
        assert torch.allclose(found[name], expected[name], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc"])
def test_taylor_of_rows_squares_each_rows_own_whatever_the_batches(case, name) -> None:
    weight = dict(case.model.named_modules())[name].weight.detach()
    terms = (case.row_gradients(name) * weight).flatten(2).sum(2)
    for batches in ([case.batch], case.batches):
        found = importance(case, "taylor", batches, per="row")[name]
        assert torch.allclose(found, terms.square().mean(0), rtol=1e-9)
