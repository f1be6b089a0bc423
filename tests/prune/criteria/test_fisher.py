"""Fisher information of gates, less multiply-adds as Torch-Pruning counts them."""

import pytest
import torch
from torch import nn

from raysb.prune.criteria import collect, find_criterion


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc"])
def test_it_is_half_the_mean_square_of_the_derivative_by_the_gate(case, name) -> None:
    found = collect(case.model, case.forward, case.loss, case.batches, {"gradient"})
    importance = find_criterion("fisher").importance(case.model, [name], found)[name]
    assert torch.allclose(importance, case.row_terms(name).square().mean(0) / 2, rtol=1e-9)


def test_beta_is_what_a_multiply_add_is_worth(case) -> None:
    found = collect(case.model, case.forward, case.loss, case.batches, {"gradient"})
    free, dear = (
        find_criterion("fisher", beta=beta).importance(case.model, case.layers, found)
        for beta in (0.0, 0.5)
    )
    # by hand: 3x3 of 2 channels at 8x8 pixels; 3x3 of 4 channels at 3x3 pixels; 6 weights
    for name, macs in {"conv1": 18 * 64, "conv2": 36 * 9, "fc": 6}.items():
        assert torch.allclose(free[name] - dear[name], torch.tensor(0.5 * macs).double())


def test_multiply_adds_are_those_of_torch_pruning() -> None:
    tp = pytest.importorskip("torch_pruning")
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False))
    x = torch.randn(1, 4, 9, 9)
    found = collect(model, lambda m, b: m(b), lambda o, b: o.flatten(1).sum(1), [x], {"gradient"})
    free, dear = (
        find_criterion("fisher", beta=beta).importance(model, ["0"], found)["0"].sum()
        for beta in (0.0, 1.0)
    )
    assert (free - dear).item() == pytest.approx(tp.utils.count_ops_and_params(model, x)[0])
