"""The derivative by gates, with the gates written out."""

import torch

from raysb.prune.criteria import collect, find_criterion


def test_it_is_minus_the_gradient_of_the_mean_loss_by_gates_at_1(case) -> None:
    gates = {
        name: torch.ones(channels, dtype=torch.float64, requires_grad=True)
        for name, channels in zip(case.layers, (4, 6, 3), strict=True)
    }
    case.loss(case.model.gated(case.batch["x"], gates), case.batch).mean().backward()
    found = collect(case.model, case.forward, case.loss, case.batches, {"gradient"})
    importance = find_criterion("skeletonization").importance(case.model, case.layers, found)
    for name in case.layers:
        assert torch.allclose(importance[name], -gates[name].grad, rtol=1e-9)


def test_a_channel_without_which_the_loss_falls_is_below_0(case) -> None:
    """To first order: a small step down the gate changes the loss by minus importance times it."""
    found = collect(case.model, case.forward, case.loss, [case.batch], {"gradient"})
    importance = find_criterion("skeletonization").importance(case.model, ["conv1"], found)
    step = 1e-6
    with torch.no_grad():
        before = case.loss(case.model(case.batch["x"]), case.batch).mean()
        for channel, value in enumerate(importance["conv1"]):
            gate = torch.ones(4, dtype=torch.float64)
            gate[channel] -= step
            after = case.loss(case.model.gated(case.batch["x"], {"conv1": gate}), case.batch).mean()
            assert torch.allclose((after - before) / step, value, atol=1e-5)
