"""`raysb.report.TSNE` against scikit-learn's exact method."""

import inspect

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE as ORACLE

from raysb.report import TSNE
from raysb.report.tsne.start import principal_components

DIGITS = load_digits().data


def digits(count, seed, kind=np.float64):
    """Some digits, of values that are not whole."""
    drawn = np.random.default_rng(seed).permutation(len(DIGITS))[:count]
    return ((DIGITS[drawn] - DIGITS.mean(0)) / 16.3).astype(kind)


@pytest.mark.parametrize(
    ("count", "init", "seed"),
    [(200, "pca", 0), (300, "pca", 1), (400, "pca", 2), (200, "random", 3)],
)
def test_the_map_is_sklearns_own(count, init, seed) -> None:
    """Rounding is amplified, so a step that differs by 1e-8 anywhere would give another map."""
    rows = digits(count, seed)
    ours = TSNE(init=init, random_state=seed).fit(rows)
    theirs = ORACLE(method="exact", init=init, random_state=seed).fit(rows)
    assert ours.kl_divergence_ == pytest.approx(theirs.kl_divergence_, rel=2e-4)  # asked for: .02
    np.testing.assert_allclose(ours.embedding_, theirs.embedding_, rtol=1e-3, atol=1e-3)
    assert ours.learning_rate_ == theirs.learning_rate_
    assert ours.n_features_in_ == theirs.n_features_in_
    assert ours.n_iter_ == theirs.n_iter_ + 1  # theirs is the number of the last, from 0
    assert ours.embedding_.dtype == theirs.embedding_.dtype


def test_float32_rows_are_embedded_as_sklearn_embeds_them_in_float64() -> None:
    rows = digits(150, 0, np.float32)
    theirs = ORACLE(method="exact", random_state=0).fit(rows.astype(np.float64))
    np.testing.assert_allclose(TSNE().fit_transform(rows), theirs.embedding_, rtol=1e-3, atol=1e-3)


def test_the_divergence_that_is_told_is_that_of_the_map_by_its_definition() -> None:
    from scipy.spatial.distance import pdist, squareform
    from sklearn.manifold._t_sne import _joint_probabilities

    found = TSNE(perplexity=20, max_iter=300).fit(DIGITS[:100])
    square = squareform(pdist(DIGITS[:100], "sqeuclidean")).astype(np.float32)
    p = _joint_probabilities(square, 20.0, 0)
    q = 1 / (1 + pdist(found.embedding_.astype(np.float64), "sqeuclidean"))
    expected = 2 * np.sum(p * np.log(p / (q / (2 * q.sum()))))
    assert found.kl_divergence_ == pytest.approx(expected, rel=1e-4)


def test_neighbours_stay_neighbours() -> None:
    from sklearn.manifold import trustworthiness

    points = TSNE().fit_transform(DIGITS[:300])
    assert trustworthiness(DIGITS[:300], points, n_neighbors=10) > 0.97


def test_names_order_and_defaults_are_those_of_sklearn() -> None:
    ours = inspect.signature(TSNE).parameters
    theirs = inspect.signature(ORACLE).parameters
    shared = [name for name in theirs if name in ours]
    assert [name for name in ours if name != "device"] == shared
    for name in shared:
        assert ours[name].default == theirs[name].default, name
        assert ours[name].kind == theirs[name].kind, name


@pytest.mark.parametrize("init", ["pca", "random"])
def test_a_seed_gives_the_same_points_to_the_bit(init) -> None:
    words = {"init": init, "max_iter": 100, "perplexity": 10}
    first, second = (TSNE(random_state=3, **words).fit_transform(DIGITS[:80]) for _ in range(2))
    assert (first == second).all()
    other = TSNE(random_state=4, **words).fit_transform(DIGITS[:80])
    assert (first == other).all() == (init == "pca")


def test_a_generator_is_a_seed_too() -> None:
    words = {"init": "random", "max_iter": 20, "perplexity": 10}
    draws = [np.random.default_rng(3), np.random.default_rng(3), np.random.default_rng(4)]
    one, same, other = (TSNE(random_state=d, **words).fit_transform(DIGITS[:80]) for d in draws)
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("components", [1, 2, 3])
def test_the_start_is_sklearns_principal_components_scaled(components) -> None:
    rows = DIGITS[:200]
    expected = PCA(components, svd_solver="full").fit_transform(rows)
    expected = expected / np.std(expected[:, 0]) * 1e-4
    ours = principal_components(torch.from_numpy(rows), components)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-11)


def test_given_points_are_where_it_begins_and_stay_as_they_are() -> None:
    init = np.random.default_rng(0).normal(size=(80, 2)) * 10
    kept = init.copy()
    words = {"perplexity": 10, "max_iter": 1, "early_exaggeration": 1.0}
    points = TSNE(init=init, learning_rate=1e-6, **words).fit_transform(DIGITS[:80])
    np.testing.assert_allclose(points, init, atol=1e-4)
    assert (init == kept).all()
    same = TSNE(init=torch.from_numpy(init), learning_rate=1e-6, **words)
    assert (same.fit_transform(torch.from_numpy(DIGITS[:80])) == points).all()


def test_the_iterations_are_counted() -> None:
    assert TSNE(perplexity=10, max_iter=120).fit(DIGITS[:50]).n_iter_ == 120
    early = TSNE(perplexity=10, min_grad_norm=1e9).fit(DIGITS[:50])
    assert early.n_iter_ == 50 + 50  # of either phase, at the first look


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"n_components": 0}, "n_components=0"),
        ({"perplexity": 0.5}, "perplexity=0.5"),
        ({"perplexity": float("nan")}, "perplexity=nan"),
        ({"early_exaggeration": 0.5}, "early_exaggeration=0.5"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": "fast"}, "or 'auto'"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"init": "spectral"}, "'pca', 'random'"),
    ],
)
def test_what_is_out_of_range_is_refused_at_construction(words, told) -> None:
    with pytest.raises(ValueError, match=told):
        TSNE(**words)


@pytest.mark.parametrize(
    ("words", "rows", "told"),
    [
        ({"perplexity": 50}, DIGITS[:50], "less than the number of rows, 50"),
        ({}, DIGITS[0], r"\(n, D\)"),
        ({"perplexity": 3}, np.array([[1.0], [np.nan], [2.0], [3.0]]), "NaN"),
        ({"perplexity": 3}, np.arange(5.0)[:, None], "only 1 principal"),
        ({"perplexity": 3}, np.ones((5, 3)), "all rows are equal"),
        ({"perplexity": 3, "init": np.ones((4, 2))}, np.eye(5), r"shape \(5, 2\)"),
    ],
)
def test_rows_that_cannot_be_embedded_are_refused(words, rows, told) -> None:
    with pytest.raises(ValueError, match=told):
        TSNE(**words).fit(rows)
