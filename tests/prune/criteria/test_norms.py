"""L1 and L2 keep what torch keeps, and are Torch-Pruning's magnitudes."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from raysb.prune.criteria import find_criterion


@pytest.mark.parametrize(("name", "n"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("amount", [1, 5, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_lowest_are_those_that_ln_structured_masks(name, n, amount, seed) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 16, 3)
    found = find_criterion(name).importance(nn.ModuleDict({"a": layer}), ["a"])["a"]
    prune.ln_structured(layer, "weight", amount=amount, n=n, dim=0)
    masked = {j for j in range(16) if not layer.weight_mask[j].any()}
    assert set(found.argsort()[:amount].tolist()) == masked


@pytest.mark.parametrize(("name", "p"), [("l1", 1), ("l2", 2)])
def test_magnitudes_are_torch_prunings(name, p) -> None:
    tp = pytest.importorskip("torch_pruning")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 5, 3))
    graph = tp.DependencyGraph().build_dependency(model, torch.randn(1, 3, 8, 8))
    group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(12)))
    magnitude = tp.importance.MagnitudeImportance(p=p, group_reduction="first", normalizer=None)
    theirs = magnitude(group).double().detach()
    ours = find_criterion(name).importance(model, ["0"])["0"]
    # theirs is the sum of |w|^p: the root is left out
    assert torch.allclose(ours**p, theirs, rtol=1e-5)
