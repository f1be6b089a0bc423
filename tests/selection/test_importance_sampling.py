"""ImportanceSampling: unbiased, of least variance, and on only where tau says that it pays."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from raysb.seeding import Draws
from raysb.selection.distribution import LossDistribution
from raysb.selection.importance_sampling import (
    CHUNK,
    ImportanceSampling,
    importance_weights,
    places,
    shares,
    smoothed_tau,
    tau,
)
from raysb.selection.stage import select_pool

ALWAYS = {"tau_threshold": 0.0}
SKEWED = np.float32([0.01] * 9 + [1.0])


def skewed(size: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(sigma=spread, size=size).astype(np.float32)


def select(scores, seed=0, window=(), ids=None, **args):
    scores = np.asarray(scores, np.float32)
    selector = ImportanceSampling(**args)
    ids = np.arange(len(scores)) if ids is None else ids
    window = np.asarray(window, np.float32)
    known = LossDistribution.merged(window, scores, selector.history)
    return selector.select(ids, scores, known, Draws(seed=seed))


@pytest.mark.parametrize(
    ("exponent", "golden"),
    [
        (1.0, [2.5, 1.25, 0.8333, 0.625]),
        (0.5, [1.627, 1.1505, 0.9394, 0.8135]),
        (0.0, [1, 1, 1, 1]),
        (-1.0, [0.3333, 0.6667, 1, 1.3333]),
    ],
)
def test_the_golden_weights_of_the_source(exponent, golden) -> None:
    np.testing.assert_allclose(
        importance_weights(np.array([1, 2, 3, 4]), exponent), golden, atol=5e-5
    )


@given(
    st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=30),
    st.floats(-3, 1),
    st.floats(-30, 30),
)
def test_the_expected_weight_of_a_draw_is_the_same_for_every_exponent(
    scores, exponent, power
) -> None:
    values = np.array(scores) * 2.0**power
    share, weight = shares(values), importance_weights(values, exponent)
    assert np.isfinite(weight).all()
    positive = np.count_nonzero(values)
    wanted = positive / len(values) if positive else 1.0
    assert share @ weight == pytest.approx(wanted, rel=1e-9)
    if positive and exponent == 1:
        np.testing.assert_allclose(weight[values > 0], 1 / (len(values) * share[values > 0]))


@pytest.mark.parametrize(
    ("scores", "weight"),
    [([1, 2, 3, 4], 1), ([0, 0, 3, 4], 0.5), ([0, 5, 0, 0], 0.25), ([0, 0, 0], 1)],
)
def test_with_exponent_0_each_draw_weighs_the_share_of_rows_that_have_a_gradient(
    scores, weight
) -> None:
    """1 where all have one: rows without are never drawn, and count 0 in the mean over all."""
    values = np.array(scores, np.float64)
    has_gradient = (values > 0) | (values.sum() == 0)
    weights = importance_weights(values, 0)
    np.testing.assert_allclose(weights[has_gradient], weight, rtol=1e-12)
    # the mean over all rows of what is 1 for each that can be drawn
    assert shares(values) @ weights == pytest.approx(has_gradient.mean(), rel=1e-12)
    many = select(np.repeat(values, 10), exponent=0.0, **ALWAYS)
    off = not (values > 0).any() and len(many.weight) == 10 * len(values)
    assert off or len(many.weight) == round(10 * len(values) / 3)
    np.testing.assert_allclose(many.weight, weight, rtol=1e-6)


def test_the_golden_taus() -> None:
    assert tau(np.array([1, 2, 3, 4])) == pytest.approx(1.09545, abs=5e-6)
    assert tau(SKEWED) == pytest.approx(2.90248, abs=5e-6)
    assert tau(np.ones(7)) == pytest.approx(1)
    assert tau(np.zeros(7)) == tau(np.zeros(0)) == 1
    assert tau(np.eye(9)[0]) == pytest.approx(3)


@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=40))
def test_tau_is_the_distance_from_uniform_as_the_source_writes_it(scores) -> None:
    g = np.array(scores) / sum(scores)
    away = ((g - 1 / len(g)) ** 2).sum() / (g**2).sum()
    assert tau(np.array(scores)) == pytest.approx(1 / np.sqrt(1 - away), rel=1e-6)


def test_tau_is_averaged_over_chunks_with_the_last_one_counting_most() -> None:
    chunks = [skewed(CHUNK, seed, spread) for seed, spread in enumerate([0.1, 1.0, 2.0])]
    each = [np.sqrt(CHUNK * ((c / c.sum(dtype=float)) ** 2).sum()) for c in chunks]
    wanted = (0.81 * each[0] + 0.9 * each[1] + each[2]) / (0.81 + 0.9 + 1)
    assert smoothed_tau(np.concatenate(chunks)) == pytest.approx(wanted)
    # what is left over at the old end, of less than a chunk, does not count
    assert smoothed_tau(np.concatenate([skewed(50, 9), *chunks])) == pytest.approx(wanted)
    assert smoothed_tau(chunks[2][:40]) == pytest.approx(tau(chunks[2][:40]))
    assert smoothed_tau(chunks[2][:15]) == 1


@pytest.mark.parametrize(("presample", "threshold"), [(3, 2.0), (5, 8 / 3), (2, 5 / 3), (1, 4 / 3)])
def test_the_threshold_is_where_scoring_is_paid_back(presample, threshold) -> None:
    assert ImportanceSampling(presample=presample).threshold == pytest.approx(threshold)
    assert ImportanceSampling(presample=presample, tau_threshold=1.5).threshold == 1.5


@pytest.mark.parametrize(("size", "presample"), [(1, 3), (2, 3), (10, 3), (256, 3), (7, 1), (9, 2)])
def test_as_many_rows_are_drawn_as_asked_for_ascending_and_with_repetitions(
    size, presample
) -> None:
    rows, probability, weight = select(skewed(size), presample=presample, **ALWAYS)
    assert len(rows) == len(probability) == len(weight) == max(round(size / presample), 1)
    assert (np.diff(rows) >= 0).all()
    assert rows.dtype == np.int64
    assert probability.dtype == weight.dtype == np.float32
    assert ((probability > 0) & (probability <= 1)).all()
    assert (weight > 0).all()


def test_a_row_is_drawn_as_often_as_its_share_of_the_scores_says() -> None:
    """Chi-square of 20,000 pools of 12 rows, 4 draws each, against 4 p."""
    scores, pools = skewed(12, spread=1), 20_000
    counts, hits = np.zeros(12), np.zeros(12)
    for seed in range(pools):
        rows, chance, weight = select(scores, seed, **ALWAYS)
        np.add.at(counts, rows, 1)
        hits[rows] += 1
    p = scores / scores.sum(dtype=float)
    assert chisquare(counts, 4 * pools * p).pvalue > 1e-4
    # and `probability` is that of being drawn at all
    wanted = 1 - (1 - p) ** 4
    np.testing.assert_allclose(chance, wanted[rows], rtol=1e-5)
    np.testing.assert_allclose(weight, 1 / (12 * p[rows]), rtol=1e-5)
    bound = 4.5 * np.sqrt(wanted * (1 - wanted) / pools)
    assert (abs(hits / pools - wanted) < bound).all()


def drawn_at(temperature: float, losses: np.ndarray, seeds: int) -> np.ndarray:
    """How often each row is drawn with the chance softmax(loss / T), which is what it is given."""
    scores = np.exp((losses - losses.max()) / temperature)
    counts = np.zeros(len(losses), np.int64)
    for seed in range(seeds):
        picks = select(scores, seed=seed, **ALWAYS, exponent=0.0)
        assert np.ptp(picks.weight) == 0  # none is made up for having been likelier
        counts += np.bincount(picks.indices, minlength=len(losses))
    return counts


def test_by_a_boltzmann_factor_it_goes_from_the_top_row_alone_to_uniform() -> None:
    """T to 0: the highest loss again and again; T to infinity: all alike; between them softmax.

    6,000 draws each, with chi-square tests at .001.
    """
    losses = np.random.default_rng(0).permutation(np.linspace(0, 2, 30))
    cold = drawn_at(1e-3, losses, 50)
    assert cold.sum() == cold[losses.argmax()] == 50 * 10
    assert chisquare(drawn_at(1e9, losses, 600)).pvalue > 0.001
    share = np.exp(losses / 0.5) / np.exp(losses / 0.5).sum()
    assert chisquare(drawn_at(0.5, losses, 600), 6000 * share).pvalue > 0.001


def test_the_mean_of_weighted_draws_is_the_mean_of_the_pool() -> None:
    """1e5 draws of a pool of 500 rows: within 4.5 standard errors, for values of either sign."""
    scores = skewed(500, spread=1)
    values = np.random.default_rng(3).normal(0.3, 1, size=(500, 4)) * scores[:, None] ** 0.5
    total, number = np.zeros(4), 0
    for seed in range(600):
        rows, _, weight = select(scores, seed, **ALWAYS)
        total += (weight[:, None] * values[rows]).sum(0)
        number += len(rows)
    assert number > 1e5 - 1000
    p = scores / scores.sum(dtype=float)
    second = ((values / 500) ** 2 / p[:, None]).sum(0)
    error = np.sqrt((second - values.mean(0) ** 2) / number)
    assert (abs(total / number - values.mean(0)) < 4.5 * error).all()


def variance(p: np.ndarray, gradients: np.ndarray) -> float:
    """Trace of the covariance of g_i / (n p_i), i drawn by p: sum |g|^2 / (n^2 p) - |mean|^2."""
    n = len(p)
    return float(((gradients**2).sum(1) / (n**2 * p)).sum() - (gradients.mean(0) ** 2).sum())


@settings(max_examples=200)
@given(st.integers(2, 40), st.integers(0, 10**6), st.floats(0.01, 3))
def test_no_other_chances_have_a_smaller_variance_of_the_gradient(rows, seed, spread) -> None:
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(rows, 3)) * rng.lognormal(sigma=2, size=(rows, 1))
    ours = shares(np.linalg.norm(gradients, axis=1))
    least = variance(ours, gradients)
    others = [np.full(rows, 1 / rows), rng.dirichlet(np.ones(rows)), ours ** (1 + spread)]
    others += [ours * rng.lognormal(sigma=spread, size=rows), ours ** (1 / (1 + spread))]
    for other in others:
        other = other / other.sum()
        if (other > 0).all():
            assert variance(other, gradients) >= least * (1 - 1e-9)


def test_the_variance_falls_as_tau_says() -> None:
    """Second moments of uniform chances and of ours differ by tau squared."""
    gradients = np.random.default_rng(0).normal(size=(50, 3)) * skewed(50)[:, None]
    norms = np.linalg.norm(gradients, axis=1)
    rest = (gradients.mean(0) ** 2).sum()
    uniform = variance(np.full(50, 1 / 50), gradients) + rest
    assert uniform / (variance(shares(norms), gradients) + rest) == pytest.approx(tau(norms) ** 2)


def test_the_draws_do_not_depend_on_the_order_of_the_rows_and_do_on_seed_epoch_and_pool() -> None:
    ids, scores = np.random.default_rng(0).permutation(5000)[:300], skewed(300)
    selector, known = ImportanceSampling(**ALWAYS), LossDistribution(scores)

    def drawn(rows, draws=None, ids=ids):
        draws = draws or Draws(seed=1, epoch=2)
        return ids[rows][selector.select(ids[rows], scores[rows], known, draws).indices]

    straight, order = np.arange(300), np.random.default_rng(1).permutation(300)
    wanted = sorted(drawn(straight))
    assert sorted(drawn(order)) == wanted
    assert sorted(drawn(straight, Draws(seed=1, epoch=3))) != wanted
    assert sorted(drawn(straight, Draws(seed=2, epoch=2))) != wanted
    assert sorted(drawn(straight, ids=ids + 10**6) - 10**6) != wanted
    chances = selector.select(ids[order], scores[order], known, Draws(seed=1, epoch=2))
    assert (np.diff(chances.indices) >= 0).all()
    by_hand = 1 / (300 * scores[order][chances.indices] / scores.sum(dtype=float))
    np.testing.assert_allclose(chances.weight, by_hand, rtol=1e-5)


def test_scores_of_zero_are_never_drawn_and_all_zero_is_uniform() -> None:
    scores = skewed(60)
    scores[::2] = 0
    counts, weights = np.zeros(60), np.zeros(60)
    for seed in range(500):
        counts[select(scores, seed, **ALWAYS).indices] += 1
        rows, probability, weight = select(np.zeros(60), seed, **ALWAYS)
        weights[rows] += 1
        assert (weight == 1).all()
        np.testing.assert_allclose(probability, 1 - (59 / 60) ** 20, rtol=1e-5)
    assert (counts[::2] == 0).all()
    wanted = 1 - (59 / 60) ** 20
    assert (abs(weights / 500 - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / 500)).all()


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 1e-9]) | st.floats(0, 1), min_size=1, max_size=30),
    st.lists(st.sampled_from([0.0, 0.5, 1 - 2.0**-53]) | st.floats(0, 1, exclude_max=True)),
)
def test_a_number_falls_on_the_row_whose_part_of_the_sum_holds_it(share, uniform) -> None:
    """Also 0 and the largest below 1, which must fall on no row of share 0 at either end."""
    share[len(share) // 2] += 0.1
    wanted = []
    for number in sorted(uniform):
        sums = np.cumsum(share)
        wanted.append(next(i for i, total in enumerate(sums) if number * sums[-1] < total))
    found = places(np.array(share), np.array(uniform))
    assert found.tolist() == wanted
    assert (np.array(share)[found] > 0).all()


def test_a_row_that_has_all_the_gradient_is_all_that_is_drawn() -> None:
    rows, probability, weight = select([0, 0, 5, 0], presample=1, **ALWAYS)
    assert rows.tolist() == [2] * 4
    assert probability.tolist() == [1] * 4
    assert weight.tolist() == [0.25] * 4


def test_small_and_large_scores_lose_nothing() -> None:
    for power in (-60, -20, 20, 60):
        scaled = select(skewed(100) * np.float32(2.0**power), **ALWAYS)
        for ours, plain in zip(scaled, select(skewed(100), **ALWAYS), strict=True):
            np.testing.assert_allclose(ours, plain, rtol=1e-5)
    wide = np.array([1e-38, 1.0, 1e38])
    for exponent in (-20, -1, 0.5, 1):
        assert np.isfinite(importance_weights(wide, exponent)).all()


# --- on and off ---


def flat(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.9, 1.1, size).astype(np.float32)


def test_while_off_all_rows_are_trained_alike_and_a_share_is_scored() -> None:
    ids, selector = np.arange(256) * 3, ImportanceSampling()
    for window in (flat(0), flat(4096)):
        probed = selector.to_score(ids, window, Draws())
        assert len(probed) == 32
        assert (np.diff(probed) > 0).all()
        assert probed.dtype == np.int64
        rows, probability, weight = select(skewed(32), window=window, ids=ids[probed])
        assert rows.tolist() == list(range(32))
        assert (probability == 1).all()
        assert (weight == 1).all()


def test_while_on_all_rows_are_scored_and_a_third_is_drawn() -> None:
    window = skewed(4096)
    assert ImportanceSampling().to_score(np.arange(256), window, Draws()) is None
    assert len(select(flat(256), window=window).indices) == 85
    assert (
        ImportanceSampling(tau_threshold=40).to_score(np.arange(256), window, Draws()) is not None
    )
    assert ImportanceSampling(tau_threshold=0).to_score(np.arange(256), flat(0), Draws()) is None


@pytest.mark.parametrize(("size", "count"), [(256, 32), (100, 16), (17, 16), (16, None), (1, None)])
def test_a_pool_is_probed_by_one_row_in_eight_and_at_least_sixteen(size, count) -> None:
    probed = ImportanceSampling().to_score(np.arange(size), flat(0), Draws())
    assert (None if probed is None else len(probed)) == count


def test_the_probed_rows_are_by_lot_and_those_of_their_ids() -> None:
    ids, counts = np.random.default_rng(0).permutation(9999)[:200], np.zeros(200)
    order = np.random.default_rng(1).permutation(200)
    for seed in range(1000):
        probed = ImportanceSampling().to_score(ids, flat(0), Draws(seed=seed))
        counts[probed] += 1
    shuffled = ImportanceSampling().to_score(ids[order], flat(0), Draws(seed=999))
    assert sorted(ids[order][shuffled]) == sorted(ids[probed])
    assert (abs(counts / 1000 - 1 / 8) < 4.5 * np.sqrt(1 / 8 * 7 / 8 / 1000)).all()


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 600),
    st.integers(0, 2000),
    st.integers(0, 10**6),
    st.sampled_from([256, 301, 512, 1000]),
)
def test_whoever_asks_decides_alike_before_scoring_and_after(rows, before, seed, history) -> None:
    """The scorer asks `to_score` with the window, then selects with the window and the scores.

    If one said off and the other on, rows that stand for many would be drawn from a few probes.
    """
    rng = np.random.default_rng(seed)
    window = rng.lognormal(sigma=rng.uniform(0.5, 1.6), size=before)[-history:].astype(np.float32)
    scores = rng.lognormal(sigma=rng.uniform(0, 3), size=rows).astype(np.float32)
    selector = ImportanceSampling(history=history, tau_threshold=1.5)
    probed = selector.to_score(np.arange(rows), window, Draws(seed=seed))
    scored = np.arange(rows) if probed is None else probed
    own = scores[scored]
    picks = select(own, seed, window, scored, history=history, tau_threshold=1.5)
    taken = picks.indices.tolist() == list(range(len(scored)))
    if probed is not None:
        assert taken
        assert (picks.weight == 1).all()
        assert not selector.is_on(window[-(history // 2) :])
    elif rows <= history // 2 and rows > 16:
        assert selector.is_on(window[-(history // 2) :])
        assert len(picks.indices) == max(round(rows / 3), 1)


def test_a_run_switches_on_when_gradients_come_to_differ_and_off_again() -> None:
    """Pools of 128 rows through the stage, the window fed with what was scored alone."""
    selector, window, states = ImportanceSampling(history=1024), flat(0), []
    for step in range(120):
        scores = skewed(128, step) if 40 <= step < 80 else flat(128, step)
        ids, draws = np.arange(128) + 128 * step, Draws(seed=3)
        probed = selector.to_score(ids, window, draws)
        rows = np.arange(128) if probed is None else probed
        pool = select_pool(
            selector, {"id": ids[rows]}, scores[rows], window=window, draws=draws, weights_step=0
        )
        states.append(probed is None)
        assert len(pool.batch["id"]) == (43 if probed is None else 16)
        window = np.concatenate([window, scores[rows]])[-1024:]
    assert not any(states[:41])
    assert all(states[60:80])
    assert not any(states[100:])


def test_a_pool_larger_than_half_the_history_is_scored_whole_and_decided_with_its_own_scores() -> (
    None
):
    selector = ImportanceSampling(history=256)
    assert selector.to_score(np.arange(500), flat(0), Draws()) is None
    assert len(select(skewed(500), history=256).indices) == 167
    assert len(select(flat(500), history=256).indices) == 500


def test_counts_are_of_draws() -> None:
    selector = ImportanceSampling(**ALWAYS)
    selector.select(np.arange(30), skewed(30), LossDistribution(skewed(30)), Draws())
    assert selector.metrics() == {"num_offered": 30, "num_selected": 10, "kept_fraction": 1 / 3}


def test_what_it_ranks_and_asks_of_the_stream_is_no_setting() -> None:
    assert ImportanceSampling.score == "gradient_norm_bound"
    assert ImportanceSampling.needs_scores
    assert ImportanceSampling.trains_unscored
    names = [field.name for field in dataclasses.fields(ImportanceSampling)]
    assert names == ["presample", "tau_threshold", "exponent", "history", "at"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presample", 0.9),
        ("presample", float("inf")),
        ("presample", float("nan")),
        ("tau_threshold", -1),
        ("tau_threshold", float("nan")),
        ("exponent", 1.1),
        ("exponent", float("-inf")),
        ("exponent", float("nan")),
        ("history", 255),
        ("at", ""),
    ],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"ImportanceSampling\({name}={value!r}\): must be"):
        ImportanceSampling(**{name: value})


def test_scores_that_are_no_norms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 scores are negative.*gradient_norm_bound"):
        select([-1, -2, 3], **ALWAYS)
    with pytest.raises(ValueError, match="2 ids need as many finite"):
        ImportanceSampling().select(
            np.arange(2), np.float32([1, np.nan]), LossDistribution(np.ones(1)), Draws()
        )
    with pytest.raises(ValueError, match="distribution=None"):
        ImportanceSampling().select(np.arange(2), np.float32([1, 2]), None, Draws())


def test_no_rows_are_no_draws() -> None:
    assert len(select([], **ALWAYS).indices) == 0
    assert ImportanceSampling().to_score(np.zeros(0, np.int64), flat(0), Draws()) is None
