"""Random importance is a function of seed and layer, and even."""

import torch
from scipy.stats import kstest
from torch import nn

from raysb.prune.criteria import find_criterion


def test_the_same_seed_gives_the_same_order_and_another_another() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2000), "b": nn.Linear(2, 2000)})
    first, again, other = (
        find_criterion("random", seed=seed).importance(model, ["a", "b"]) for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in "ab")
    columns = [first["a"], first["b"], other["a"], other["b"]]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(4)
    assert correlation.abs().max() < 0.1
    assert all(kstest(column.numpy(), "uniform").pvalue > 1e-4 for column in columns)
