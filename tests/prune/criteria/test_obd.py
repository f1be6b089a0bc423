"""Optimal Brain Damage against per-row gradients of torch.func."""

import torch

from raysb.prune.criteria import collect, find_criterion


def test_saliencies_are_half_the_mean_squared_gradient_times_the_squared_weight(case) -> None:
    found = collect(case.model, case.forward, case.loss, case.batches, {"per_sample_gradient"})
    obd = find_criterion("obd")
    importance = obd.importance(case.model, case.layers, found)
    expected = {}
    for name in case.layers:
        weight = dict(case.model.named_modules())[name].weight.detach()
        expected[name] = case.row_gradients(name).square().mean(0) * weight.square() / 2
        assert torch.allclose(importance[name], expected[name].flatten(1).sum(1), rtol=1e-9)
    masks = obd.masks(case.model, 0.4, case.layers, found)
    removed = torch.cat([expected[n][~masks[n]] for n in case.layers])
    kept = torch.cat([expected[n][masks[n]] for n in case.layers])
    assert len(removed) == round(0.4 * (len(removed) + len(kept)))
    assert removed.max() <= kept.min()


def test_of_a_linear_model_with_squared_error_it_is_the_rise_of_the_loss_itself() -> None:
    """One weight, y = w x with noise of variance 1: h = E[x^2 e^2] = E[x^2], the true curvature."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    y = 0.7 * x + torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False)).double()
    best = (x * y).sum() / x.square().sum()
    with torch.no_grad():
        model[0].weight.fill_(best)
    batch = {"x": x, "y": y}

    def loss(outputs, batch):
        return (outputs - batch["y"]).square().sum(1) / 2

    found = collect(model, lambda m, b: m(b["x"]), loss, [batch], {"per_sample_gradient"})
    estimate = find_criterion("obd").importance(model, ["0"], found)["0"].item()
    rise = (y.square() - (y - best * x).square()).mean().item() / 2
    assert abs(estimate / rise - 1) < 0.05
