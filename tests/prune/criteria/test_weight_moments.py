"""Sum, mean and standard deviation of filters, against numpy."""

import numpy as np
import pytest
import torch
from torch import nn

from raysb.prune.criteria import find_criterion


@pytest.mark.parametrize("name", ["sum", "mean", "std"])
@pytest.mark.parametrize("layer", [nn.Linear(7, 5), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(1, 4)])
def test_moments_are_numpys(name, layer) -> None:
    weight = layer.weight.detach().double().numpy().reshape(len(layer.weight), -1)
    found = find_criterion(name).importance(nn.ModuleDict({"a": layer}), ["a"])["a"]
    assert np.allclose(found, getattr(np, name)(weight, axis=1), atol=1e-12)


def test_a_weight_that_is_not_finite_is_told() -> None:
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.weight[2, 1] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 4 channels of layer 'a'.*channel 2 first"):
        find_criterion("mean").importance(nn.ModuleDict({"a": layer}), ["a"])
