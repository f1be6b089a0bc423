"""Neighbour probabilities against scikit-learn and their own definition."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, squareform
from sklearn.datasets import load_digits
from sklearn.manifold._t_sne import _joint_probabilities

from raysb.report.tsne.affinities import LEAST, joint_probabilities, squared_distances


def rows(count=300):
    return torch.from_numpy(load_digits().data[:count])


@pytest.mark.parametrize("perplexity", [5.0, 30.0, 100.0])
def test_probabilities_are_those_of_sklearn(perplexity) -> None:
    distances = squared_distances(rows())
    given = squareform(distances.numpy().astype(np.float32), checks=False)
    theirs = squareform(_joint_probabilities(squareform(given), perplexity, 0))
    ours = joint_probabilities(distances, perplexity).numpy()
    assert np.abs(ours - theirs).max() < 1e-16  # asked for: 1e-5
    assert ours.max() > 1e-4
    np.testing.assert_allclose(ours, ours.T)
    assert ours.sum() == pytest.approx(1)
    assert (ours.diagonal() == 0).all()


def test_distances_are_those_of_scipy() -> None:
    far = rows(50) + 1e4  # far from the origin digits would cancel out
    expected = cdist(far, far, "sqeuclidean")
    np.testing.assert_allclose(squared_distances(far).numpy(), expected, atol=1e-8)


def test_every_row_has_the_perplexity_that_was_asked_for() -> None:
    """The conditional probabilities of rows on a circle are equal, so P gives them back."""
    turn = torch.arange(60, dtype=torch.float64) * (2 * math.pi / 60)
    circle = torch.stack([turn.cos(), turn.sin()], dim=1)
    joint = joint_probabilities(squared_distances(circle), 10.0)
    given = joint * len(circle)
    entropy = -torch.xlogy(given, given).sum(1)
    assert entropy.exp().numpy() == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1e6])
def test_the_unit_of_the_features_does_not_matter(scale) -> None:
    plain = joint_probabilities(squared_distances(rows(100)), 10.0)
    scaled = joint_probabilities(squared_distances(rows(100) * scale), 10.0)
    np.testing.assert_allclose(scaled.numpy(), plain.numpy(), rtol=1e-3)


def test_a_row_far_from_all_others_still_has_neighbours() -> None:
    far = rows(100).clone()
    far[0] += 1e4
    joint = joint_probabilities(squared_distances(far), 10.0)
    assert joint.isfinite().all()
    assert joint[0].sum() == pytest.approx(1 / 200, rel=1e-3)  # its own half of 1/n


def test_equal_rows_share_the_probability() -> None:
    same = torch.zeros(40, 3, dtype=torch.float64)
    joint = joint_probabilities(squared_distances(same), 5.0)
    beside = ~torch.eye(40, dtype=torch.bool)
    assert joint[beside].numpy() == pytest.approx(1 / (40 * 39))
    groups = torch.repeat_interleave(torch.arange(2.0, dtype=torch.float64), 20)[:, None]
    joint = joint_probabilities(squared_distances(groups), 5.0)  # 19 equal ones, 5 wanted
    assert joint[0, 25] <= 2 * LEAST
    assert joint[0, 1] == pytest.approx(1 / (40 * 19))
