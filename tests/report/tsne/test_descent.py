"""The divergence and its gradient against autograd and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import squareform
from sklearn.datasets import load_digits
from sklearn.manifold import _t_sne as oracle

from raysb.report.tsne.affinities import joint_probabilities, squared_distances
from raysb.report.tsne.descent import Descent, Divergence

ROWS = torch.from_numpy(load_digits().data[:120])


def problem(components):
    joint = joint_probabilities(squared_distances(ROWS), 20.0)
    generator = torch.Generator().manual_seed(components)
    points = torch.randn(len(ROWS), components, generator=generator, dtype=torch.float64) * 3
    return joint, points


def divergence(joint, points):
    """KL(P || Q) as it is defined, for autograd."""
    v = max(points.shape[1] - 1, 1)
    square = (points[:, None] - points[None]).square().sum(2)
    beside = ~torch.eye(len(points), dtype=torch.bool)
    weights = (1 + square / v) ** (-(v + 1) / 2) * beside
    q = (weights / weights.sum())[beside]
    return (joint[beside] * (joint[beside] / q).log()).sum()


@pytest.mark.parametrize("components", [1, 2, 3, 4])
def test_value_and_gradient_are_those_of_autograd(components) -> None:
    joint, points = problem(components)
    points.requires_grad_()
    expected = divergence(joint, points)
    (gradient,) = torch.autograd.grad(expected, points)
    ours = Divergence(joint, components, torch.float64)
    with torch.no_grad():
        assert ours.value(points) == pytest.approx(expected.item(), rel=1e-9)
        np.testing.assert_allclose(ours.gradient(points), gradient, atol=1e-12, rtol=1e-7)


def test_value_and_gradient_are_those_of_sklearn_in_the_plane() -> None:
    joint, points = problem(2)
    condensed = squareform(joint.numpy(), checks=False)
    value, gradient = oracle._kl_divergence(points.numpy().ravel(), condensed, 1, len(points), 2)
    ours = Divergence(joint, 2, torch.float64)
    assert ours.value(points) == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(ours.gradient(points).ravel(), gradient, atol=1e-12, rtol=1e-7)


@pytest.mark.parametrize(("momentum", "exaggeration"), [(0.5, 12.0), (0.8, 1.0)])
def test_the_first_moves_are_those_of_sklearn(momentum, exaggeration) -> None:
    joint, points = problem(2)
    points *= 1e-3
    given = [squareform(joint.numpy(), checks=False) * exaggeration, 1, len(points), 2]
    expected, _, _ = oracle._gradient_descent(
        oracle._kl_divergence,
        points.numpy().ravel(),
        0,
        15,
        momentum=momentum,
        learning_rate=50.0,
        args=given,
    )
    descent = Descent(learning_rate=50.0, least_gradient=0.0)
    done = descent.run(
        Divergence(joint * exaggeration, 2, torch.float64),
        points,
        iterations=15,
        momentum=momentum,
        patience=99,
    )
    assert done == 15
    np.testing.assert_allclose(points.numpy().ravel(), expected, rtol=1e-9, atol=1e-12)


def test_it_ends_where_nothing_moves() -> None:
    joint, points = problem(2)
    still = Descent(learning_rate=1e-9, least_gradient=1e9)
    words = {"iterations": 500, "momentum": 0.5, "patience": 300}
    assert still.run(Divergence(joint, 2), points, **words) == 50  # the first look


@pytest.mark.parametrize(("patience", "expected"), [(-1, 100), (49, 100), (50, 150), (999, 500)])
def test_it_ends_where_nothing_gets_better_for_longer_than_its_patience(patience, expected) -> None:
    joint, points = problem(2)
    condensed = [squareform(joint.numpy(), checks=False), 1, len(points), 2]
    words = {"n_iter_check": 50, "n_iter_without_progress": patience, "learning_rate": 0.0}
    start = points.numpy().ravel()
    given = {**words, "min_grad_norm": 0.0, "args": condensed}
    *_, last = oracle._gradient_descent(oracle._kl_divergence, start, 0, 500, **given)
    assert last + 1 == expected
    standing = Descent(learning_rate=0.0, least_gradient=0.0)
    words = {"iterations": 500, "momentum": 0.5, "patience": patience}
    assert standing.run(Divergence(joint, 2), points, **words) == expected
