"""FPGM is the sum of distances, on signed weights, exactly."""

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import nn

from raysb.prune.criteria import find_criterion


def importance(layer: nn.Module) -> torch.Tensor:
    return find_criterion("fpgm").importance(nn.ModuleDict({"a": layer}), ["a"])["a"]


def test_sums_of_distances_are_scipys() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 64, 3)  # more than 25 rows, where torch would use a matrix product
    rows = layer.weight.detach().double().numpy().reshape(64, -1)
    assert np.allclose(importance(layer), cdist(rows, rows).sum(1), rtol=1e-13)


def test_near_twins_are_told_apart_far_from_the_origin() -> None:
    layer = nn.Linear(2, 30).double()
    with torch.no_grad():
        layer.weight.copy_(1e6 + 1e-4 * torch.arange(60.0, dtype=torch.float64).view(30, 2))
    rows = layer.weight.detach().numpy()
    assert np.allclose(importance(layer), cdist(rows, rows).sum(1), rtol=1e-6)


def test_signs_count() -> None:
    """Filters 1, 1, 1, -1: the odd one out is the most important though all are of one size."""
    layer = nn.Linear(1, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [1.0], [1.0], [-1.0]]))
    assert importance(layer).tolist() == [2, 2, 2, 6]
