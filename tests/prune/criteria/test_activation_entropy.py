"""Entropies are those of numpy.histogram."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from raysb.prune.criteria import collect, find_criterion
from raysb.prune.criteria.activation_entropy import histogram_entropy


@pytest.mark.parametrize("bins", [2, 7, 32, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_entropy_is_that_of_numpys_histogram(bins, weighted) -> None:
    rng = np.random.default_rng(bins)
    values = rng.normal(size=(500, 9)) ** 3 + 5
    values[:, 0] = 2.5  # says nothing
    values[:, 1] = values[:, 1] > 5
    weights = rng.exponential(size=500) if weighted else np.ones(500)
    found = histogram_entropy(torch.from_numpy(values), torch.from_numpy(weights), bins)
    expected = [entropy(np.histogram(v, bins, weights=weights)[0]) for v in values.T]
    assert np.allclose(found, expected, atol=1e-12)
    assert abs(found[0]) < 1e-12


def test_of_a_net_it_is_the_histogram_of_the_means_after_relu(case) -> None:
    found = collect(case.model, case.forward, case.loss, case.batches, {"activation"})
    importance = find_criterion("entropy", bins=6).importance(case.model, ["conv1"], found)
    with torch.no_grad():
        a = case.model.norm1(case.model.conv1(case.batch["x"])).relu().mean((2, 3))
    expected = [entropy(np.histogram(v.float().numpy(), 6)[0]) for v in a.T]
    assert np.allclose(importance["conv1"], expected, atol=1e-9)
