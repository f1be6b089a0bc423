"""Optimal Brain Surgeon on quadratics, where its formulas are exact."""

import pytest
import torch
from torch import nn

from raysb.prune.criteria import collect, find_criterion
from raysb.prune.criteria.obs import Hessian


def random_rows(n: int, m: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(m, m, generator=generator, dtype=torch.float64)
    return torch.randn(n, m, generator=generator, dtype=torch.float64) @ mix


def dense(rows: torch.Tensor, ridge: float) -> torch.Tensor:
    """H = lambda I + G'G / n, formed."""
    eye = torch.eye(rows.shape[1], dtype=torch.float64)
    return ridge * eye + rows.T @ rows / len(rows)


@pytest.mark.parametrize(("n", "m"), [(40, 12), (5, 30), (1, 3)])
def test_what_woodbury_gives_is_the_direct_inverse(n, m) -> None:
    rows = random_rows(n, m)
    found = Hessian(rows, torch.ones(n), 1e-2)
    inverse = torch.linalg.inv(dense(rows, found.ridge))
    scale = inverse.abs().max()
    assert torch.allclose(found.inverse_diagonal(), inverse.diagonal(), atol=1e-9 * scale)
    vector = torch.randn(m, dtype=torch.float64)
    assert torch.allclose(found.inverse_times(vector), inverse @ vector, atol=1e-9 * scale)
    places = torch.tensor([2, 0])
    block = torch.linalg.inv(inverse[places][:, places])
    expected = block @ vector[places]
    assert torch.allclose(found.block_inverse_times(vector[places], places), expected, rtol=1e-7)
    assert found.ridge == pytest.approx(1e-2 * (rows.T @ rows / n).diagonal().mean().item())


def test_the_recursion_of_the_paper_over_rows_gives_the_same_inverse() -> None:
    """H_n^-1 = H_(n-1)^-1 - H_(n-1)^-1 g g' H_(n-1)^-1 / (P + g' H_(n-1)^-1 g), a row at a time."""
    rows = random_rows(50, 10)
    found = Hessian(rows, torch.ones(50), 1e-2)
    inverse = torch.eye(10, dtype=torch.float64) / found.ridge
    for g in rows:
        step = inverse @ g
        inverse = inverse - torch.outer(step, step) / (50 + g @ step)
    assert torch.allclose(found.inverse_diagonal(), inverse.diagonal(), rtol=1e-9)


def test_a_row_of_weight_2_is_that_row_twice() -> None:
    rows = random_rows(6, 9)
    u = torch.tensor([1.0, 2, 1, 1, 3, 1])
    once = Hessian(rows, u, 1e-2)
    repeated = Hessian(rows.repeat_interleave(u.long(), 0), torch.ones(9), 1e-2)
    found = once.inverse_diagonal() * once.ridge, repeated.inverse_diagonal() * repeated.ridge
    assert once.ridge * 6 / 9 != repeated.ridge  # the mean is over n rows, whatever the weights
    assert torch.allclose(torch.tensor(once.ridge), torch.tensor(repeated.ridge))
    assert torch.allclose(*found)


def quadratic(rows: torch.Tensor, ridge: float, at: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """1/2 (w - at)' H (w - at), a loss with its minimum at `at`."""
    return (w - at) @ dense(rows, ridge) @ (w - at) / 2


@pytest.mark.parametrize("n", [40, 5])
def test_after_repair_the_loss_has_risen_by_w_squared_over_2_h_inverse(n) -> None:
    rows = random_rows(n, 12, seed=n)
    weights = torch.randn(12, dtype=torch.float64)
    found = Hessian(rows, torch.ones(n), 1e-2)
    saliency = weights.square() / (2 * found.inverse_diagonal())
    for gone in range(12):
        repaired = weights + found.repair(weights, torch.tensor([gone]))
        assert abs(repaired[gone]) < 1e-8
        rise = quadratic(rows, found.ridge, weights, repaired)
        assert torch.allclose(rise, saliency[gone], rtol=1e-6)
        bare = weights.clone()
        bare[gone] = 0
        assert rise <= quadratic(rows, found.ridge, weights, bare)


def test_repair_is_the_constrained_minimum_for_several_weights_at_once() -> None:
    """Against the solution of the stationarity conditions of the weights that stay."""
    rows = random_rows(30, 12)
    weights = torch.randn(12, dtype=torch.float64)
    found = Hessian(rows, torch.ones(30), 1e-2)
    gone, kept = torch.tensor([1, 4, 7]), torch.tensor([0, 2, 3, 5, 6, 8, 9, 10, 11])
    hessian = dense(rows, found.ridge)
    expected = weights.clone()
    expected[gone] = 0
    move = hessian[kept][:, gone] @ weights[gone]
    expected[kept] += torch.linalg.solve(hessian[kept][:, kept], move)
    repaired = weights + found.repair(weights, gone)
    assert torch.allclose(repaired, expected, atol=1e-8)
    rise = quadratic(rows, found.ridge, weights, repaired)
    assert torch.allclose(rise, found.quadratic(weights[gone], gone) / 2, rtol=1e-6)


def collected(case, **args):
    return collect(
        case.model, case.forward, case.loss, case.batches, {"per_sample_gradient"}, **args
    )


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc"])
def test_of_a_net_it_is_the_formula_on_gradients_of_torch_func(case, name) -> None:
    rows = case.row_gradients(name).flatten(1)
    weight = dict(case.model.named_modules())[name].weight.detach()
    ridge = 1e-2 * rows.square().mean()
    inverse = torch.linalg.inv(dense(rows, float(ridge)))
    obs, found = find_criterion("obs"), collected(case)
    singles = weight.square() / 2 / inverse.diagonal().view_as(weight)
    assert torch.allclose(
        obs.weight_score(name, case.model.get_submodule(name), found[name]), singles, rtol=1e-6
    )
    places = torch.arange(weight.numel()).view(len(weight), -1)
    groups = [
        w @ torch.linalg.inv(inverse[p][:, p]) @ w / 2
        for w, p in zip(weight.flatten(1), places, strict=True)
    ]
    importance = obs.importance(case.model, [name], found)[name]
    assert torch.allclose(importance, torch.stack(groups), rtol=1e-6)


def test_repairing_whole_filters_and_single_weights(case) -> None:
    obs, found = find_criterion("obs", damping=0.1), collected(case)
    keep = torch.tensor([True, True, False, True, False, True])
    masks = {"conv2": keep, "conv1": torch.rand(4, 2, 3, 3) > 0.3}
    before = {n: dict(case.model.named_modules())[n].weight.detach().clone() for n in masks}
    repaired = obs.repair(case.model, masks, found)
    for name, mask in masks.items():
        assert torch.equal(dict(case.model.named_modules())[name].weight, before[name])
        assert repaired[name].dtype == before[name].dtype
        assert repaired[name][~mask].eq(0).all()
        assert not torch.equal(repaired[name][mask], before[name][mask])


def test_repair_makes_up_for_weights_where_the_model_is_linear() -> None:
    """Of twin inputs one weight goes: the other takes over and the loss stays."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.01 * x[:, 1]
    truth = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
    y = x @ truth.T + 0.1 * torch.randn(200, 1, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.linalg.lstsq(x, y).solution.T)

    def loss(outputs, batch):
        return (outputs - batch["y"]).square().sum(1)

    batch = {"x": x, "y": y}
    found = collect(model, lambda m, b: m(b["x"]), loss, [batch], {"per_sample_gradient"})
    obs = find_criterion("obs", damping=1e-4)
    mask = torch.tensor([[False, True, True]])
    repaired = obs.repair(model, {"0": mask}, found)["0"]
    assert torch.allclose(repaired[0, 1:], torch.tensor([2.0, -1.0]).double(), atol=0.1)
    bare = model[0].weight.detach() * mask
    error = [(x @ w.T - y).square().mean().item() for w in (model[0].weight, bare, repaired)]
    assert error[1] > 20 * error[0]
    assert error[2] < 1.2 * error[0]


def test_gradients_that_are_all_0_rank_by_size(case) -> None:
    with torch.no_grad():
        case.model.fc.weight.zero_()
    importance = find_criterion("obs").importance(case.model, ["conv1"], collected(case))["conv1"]
    norms = case.model.conv1.weight.detach().flatten(1).square().sum(1)
    assert torch.equal(importance.argsort(), norms.argsort())


def test_what_cannot_be_ranked_or_repaired_is_told(case) -> None:
    obs = find_criterion("obs")
    with pytest.raises(ValueError, match="no gradient of a row of layer 'fc' was kept"):
        obs.importance(case.model, ["fc"], collected(case, gradient_rows=0))
    with pytest.raises(ValueError, match="mask of layer 'fc' is"):
        obs.repair(case.model, {"fc": torch.ones(4, dtype=torch.bool)}, collected(case))
    with pytest.raises(ValueError, match="needs per_sample_gradient"):
        obs.repair(case.model, {"fc": torch.ones(3, dtype=torch.bool)}, None)
    case.batch["x"][0] = torch.nan
    with pytest.raises(ValueError, match="gradients of layer 'fc' are NaN"):
        obs.importance(case.model, ["fc"], collected(case))
