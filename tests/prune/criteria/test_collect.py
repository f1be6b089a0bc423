"""A pass of its own leaves no trace, and refuses what gives no statistics."""

import pytest
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.prune.criteria import CRITERIA, collect

ALL = {"activation", "gradient", "per_sample_gradient"}


def test_a_pass_in_batches_is_the_pass_in_one(case) -> None:
    found = [
        collect(case.model, case.forward, case.loss, batches, ALL)
        for batches in ([case.batch], case.batches)
    ]
    for name in case.layers:
        for key in set(found[0][name].sums) - {"filter_batch"}:
            whole, parts = (each[name].mean(key) for each in found)
            assert torch.allclose(whole, parts, atol=1e-12)


def test_nothing_is_left_behind(case) -> None:
    """Dropout and batch norm in training mode, a frozen layer, gradients of a step under way."""
    model = nn.Sequential(case.model, nn.Dropout(), nn.Linear(3, 3).double()).train()
    model[0].norm1.eval()
    model[2].requires_grad_(False)
    case.forward(model, case.batch).sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()

    def drawing(model, batch):  # a model that draws in evaluation mode too
        return case.forward(model, batch) + torch.randn(3)

    collect(model, drawing, case.loss, case.batches, ALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert p.grad is gradient is None or torch.equal(p.grad, gradient)
    assert not any(m._forward_hooks for m in model.modules())


def test_frozen_layers_have_the_statistics_of_others(case) -> None:
    free = collect(case.model, case.forward, case.loss, case.batches, ALL)
    case.model.requires_grad_(False)
    frozen = collect(case.model, case.forward, case.loss, case.batches, ALL)
    for name in case.layers:
        for key, value in free[name].sums.items():
            assert torch.allclose(frozen[name].sums[key], value)


def test_rows_can_be_weighted(case) -> None:
    case.batch["u"] = torch.arange(24.0)
    once = collect(case.model, case.forward, case.loss, [case.batch], {"gradient"},
                   row_weights=lambda batch: batch["u"])  # fmt: skip
    terms = case.row_terms("conv2")
    share = case.batch["u"].double() / case.batch["u"].sum()
    assert torch.allclose(once["conv2"].mean("gate"), share @ terms)
    assert once["conv2"].rows == 23


@pytest.mark.parametrize("batches", [[], "empty"])
def test_no_row_is_an_error(case, batches) -> None:
    none = [{k: v[:0] for k, v in case.batch.items()}] if batches else []
    with pytest.raises(ValueError, match="without a row that counts"):
        collect(case.model, case.forward, case.loss, none, {"activation"})


def test_a_batch_without_rows_among_others_counts_nothing(case) -> None:
    none = {k: v[:0] for k, v in case.batch.items()}
    found = collect(case.model, case.forward, case.loss, [none, case.batch, none], ALL)
    alone = collect(case.model, case.forward, case.loss, [case.batch], ALL)
    for name in case.layers:
        assert found[name].rows == 24
        for key, value in alone[name].sums.items():
            assert torch.allclose(found[name].sums[key], value, atol=1e-12)


def test_a_mean_loss_is_an_error(case) -> None:
    def mean(outputs, batch):
        return case.loss(outputs, batch).mean()

    with pytest.raises(ModelError, match=r"loss=\): gave shape \[\]"):
        collect(case.model, case.forward, mean, [case.batch], {"gradient"})


def test_a_loss_without_graph_is_an_error(case) -> None:
    with pytest.raises(ModelError, match="no gradient came back"):
        collect(
            case.model,
            case.forward,
            lambda outputs, batch: outputs.detach().sum(1),
            [case.batch],
            {"gradient"},
        )


def test_a_layer_that_does_not_run_is_told_when_it_is_ranked(case) -> None:
    case.model.spare = nn.Linear(3, 3)
    found = collect(case.model, case.forward, case.loss, case.batches, {"activation"})
    with pytest.raises(ValueError, match="layer 'spare' saw no row"):
        CRITERIA["apoz"]().importance(case.model, ["conv1", "spare"], found)


def test_only_weights_need_no_batch(case) -> None:
    found = collect(case.model, case.forward, case.loss, [], {"weight"})
    assert CRITERIA["l1"]().importance(case.model, ["fc"], found)["fc"].shape == (3,)
