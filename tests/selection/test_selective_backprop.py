"""Selective-Backprop: P = max(s, CDF^beta), its closed forms, and what it does to a stream."""

from collections import deque

import numpy as np
import pytest
from scipy import integrate

from raysb.history.ring import LossRing
from raysb.schema import ID
from raysb.seeding import Draws
from raysb.selection.distribution import LossDistribution
from raysb.selection.selective_backprop import SelectiveBackprop
from raysb.selection.stage import select_pool

POOL_ROWS = 256


def stream(selector: SelectiveBackprop, pools: list[np.ndarray]) -> list[float]:
    """Kept fraction of each pool, ranked in the window of all pools before it."""
    ring, kept, first = LossRing(selector.history), [], 0
    for pool, losses in enumerate(pools):
        ids = np.arange(first, first + len(losses))
        first += len(losses)
        _, selected, *_ = select_pool(
            selector, {ID: ids}, losses, window=ring.window(), draws=Draws(seed=4), weights_step=0
        )
        ring.record(pool, losses)
        kept.append(float(selected.mean()))
    return kept


def exponential(pools: int, means: tuple[float, ...] = (1.0,)) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    scales = [means[pool % len(means)] for pool in range(pools)]
    return [draw.exponential(scale, POOL_ROWS).astype(np.float32) for scale in scales]


@pytest.fixture(scope="module")
def million() -> list[np.ndarray]:
    return exponential(1_000_000 // POOL_ROWS + 1)


@pytest.mark.parametrize(
    ("arguments", "fraction"),
    [
        ({"beta": 1, "ties": "strict"}, 0.49951),
        ({"beta": 2, "ties": "strict"}, 0.33285),
        ({"beta": 3, "ties": "strict"}, 0.24951),
        ({"beta": 1}, 1 / 2),
        ({"beta": 2}, 1 / 3),
        ({"beta": 3}, 1 / 4),
        ({"beta": 0.9, "min_probability": 0.3}, 0.5636),
    ],
    ids=str,
)
def test_the_kept_fraction_of_a_million_streamed_rows(million, arguments, fraction) -> None:
    assert abs(np.mean(stream(SelectiveBackprop(**arguments), million)) - fraction) < 0.002


@pytest.mark.parametrize("beta", [0.5, 0.9, 1, 2, 3])
@pytest.mark.parametrize("floor", [0, 0.3, 1])
def test_the_expected_fraction_is_the_integral_of_the_probability(beta, floor) -> None:
    integral, _ = integrate.quad(lambda u: max(floor, u**beta), 0, 1, points=[floor ** (1 / beta)])
    selector = SelectiveBackprop(beta=beta, min_probability=floor)
    assert selector.expected_fraction() == pytest.approx(integral, abs=1e-8)


def test_the_first_pool_is_ranked_among_its_own_losses() -> None:
    """Golden: batch [1..128] on an empty history gives p_k = (k/128)^3, 31.50 rows expected."""
    losses = np.arange(1, 129, dtype=np.float32)
    own = LossDistribution.merged(losses[:0], losses, 1024)
    chances = SelectiveBackprop(beta=3, ties="strict").probability(losses, own)
    np.testing.assert_allclose(chances, (np.arange(128) / 128) ** 3, atol=1e-12)
    assert chances.sum() == pytest.approx(128 * 0.24611, abs=1e-3)


def test_every_probability_of_a_stream_equals_the_original_calculator() -> None:
    history: deque[float] = deque(maxlen=1024)
    ring, selector = LossRing(1024), SelectiveBackprop(beta=3, ties="strict")
    draw = np.random.default_rng(0)
    for pool in range(21):
        losses = draw.uniform(size=128).astype(np.float32)
        history.extend(losses.tolist())
        wanted = [(sum(h < x for h in history) / len(history)) ** 3 for x in losses.tolist()]
        merged = LossDistribution.merged(ring.window(), losses, 1024)
        np.testing.assert_allclose(selector.probability(losses, merged), wanted, atol=1e-12)
        ring.record(pool, losses)


def test_a_row_is_selected_where_its_draw_lies_below_its_probability() -> None:
    losses = np.random.default_rng(0).permutation(100).astype(np.float32)
    ids, draws = np.arange(100) * 7, Draws(seed=5, epoch=1)
    wanted = [i for i in range(100) if draws.uniform(ids)[i] < ((losses[i] + 0.5) / 100) ** 2]
    chosen = SelectiveBackprop(beta=2).select(ids, losses, LossDistribution(losses), draws)
    assert chosen.indices.tolist() == wanted


def test_class_sorted_scorers_are_ranked_against_each_other() -> None:
    """Two scorers, one with easy rows (mean .2), one with hard ones (2.0): 5.7 % and 44.3 %.

    A history per scorer would keep a quarter of each.
    """
    selector = SelectiveBackprop(beta=3)
    kept = stream(selector, exponential(2000, means=(0.2, 2.0)))
    assert np.mean(kept[::2]) == pytest.approx(0.057, abs=0.01)
    assert np.mean(kept[1::2]) == pytest.approx(0.443, abs=0.01)
    for scale in (0.2, 2.0):
        alone = stream(SelectiveBackprop(beta=3), exponential(1000, means=(scale,)))
        assert np.mean(alone) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_equal_losses_do_not_stall_with_mid_ranks(beta) -> None:
    pools = [np.full(POOL_ROWS, 0.7, np.float32)] * 200
    assert np.mean(stream(SelectiveBackprop(beta=beta), pools)) == pytest.approx(
        0.5**beta, abs=0.01
    )


def test_equal_losses_stall_for_ever_with_strict_ranks_unless_there_is_a_floor() -> None:
    pools = [np.full(POOL_ROWS, 0.7, np.float32)] * 200
    assert sum(stream(SelectiveBackprop(ties="strict"), pools)) == 0
    floored = stream(SelectiveBackprop(ties="strict", min_probability=0.1), pools)
    assert np.mean(floored) == pytest.approx(0.1, abs=0.01)


def test_losses_that_are_not_finite_shift_nobody_elses_rank() -> None:
    clean = exponential(50)
    dirty = [np.concatenate([losses, np.float32([np.nan, np.inf])]) for losses in clean]
    selector, ring = SelectiveBackprop(beta=2), {name: LossRing(1024) for name in ("a", "b")}
    for pool in range(50):
        ids = np.arange(POOL_ROWS + 2) + pool * 1000
        chosen = []
        for name, losses in (("a", clean[pool]), ("b", dirty[pool])):
            batch, _, bad, _ = select_pool(
                selector,
                {ID: ids[: len(losses)]},
                losses,
                window=ring[name].window(),
                draws=Draws(),
                weights_step=0,
            )
            ring[name].record(pool, losses)
            chosen.append({k: v.tolist() for k, v in batch.items()})
        assert chosen[0] == chosen[1]
        assert bad.tolist() == ids[POOL_ROWS:].tolist()


def test_the_hardest_rows_are_kept_most_often() -> None:
    losses = np.sort(exponential(4)[0])
    own = LossDistribution(losses)
    chances = SelectiveBackprop(beta=3).probability(losses, own)
    assert (np.diff(chances) > 0).all()
    assert chances[-1] == pytest.approx(((POOL_ROWS - 0.5) / POOL_ROWS) ** 3)


def test_warmup_epochs_keep_every_row_and_say_so() -> None:
    selector, losses = SelectiveBackprop(beta=3, warmup_epochs=2), exponential(1)[0]
    for epoch, everything in [(0, True), (1, True), (2, False)]:
        rows, probability, _ = selector.select(
            np.arange(POOL_ROWS), losses, LossDistribution(losses), Draws(epoch=epoch)
        )
        assert (len(rows) == POOL_ROWS and (probability == 1).all()) == everything


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0),
        ("beta", -1.0),
        ("beta", float("inf")),
        ("beta", float("nan")),
        ("min_probability", -0.1),
        ("min_probability", 1.1),
        ("history", 0),
        ("warmup_epochs", -1),
        ("ties", "low"),
        ("target_fraction", 0.0),
        ("target_fraction", 1),
        ("target_fraction", float("nan")),
    ],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"SelectiveBackprop\({name}={value!r}\): must be"):
        SelectiveBackprop(**{name: value})


def test_a_target_below_the_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="above min_probability"):
        SelectiveBackprop(target_fraction=0.2, min_probability=0.2)


@pytest.mark.parametrize(("history", "alike"), [(256, True), (1000, True), (64, False)])
def test_the_order_of_a_pool_is_of_no_matter_where_the_history_holds_it(history, alike) -> None:
    """Of a pool of more rows than R the last R alone are ranked among, and these depend on it."""
    losses = np.random.default_rng(0).exponential(size=256).astype(np.float32)
    window = np.random.default_rng(1).exponential(size=history).astype(np.float32)
    order, ids = np.argsort(losses), np.arange(256)
    picks = []
    for rows in (ids, order):
        known = LossDistribution.merged(window, losses[rows], history)
        selector = SelectiveBackprop(history=history)
        picked = selector.select(ids[rows], losses[rows], known, Draws(epoch=3)).indices
        picks.append(sorted(ids[rows][picked].tolist()))
    assert (picks[0] == picks[1]) is alike


def test_losses_without_a_distribution_have_no_rank() -> None:
    with pytest.raises(ValueError, match=r"SelectiveBackprop\.select\(distribution=None\)"):
        SelectiveBackprop().select(np.arange(2), np.ones(2, np.float32), None, Draws())


# --- a target of the kept fraction ---------------------------------------------------------------


def drifting(by: float, pools: int = 400) -> list[np.ndarray]:
    return [losses * np.float32(by**pool) for pool, losses in enumerate(exponential(pools))]


@pytest.mark.parametrize("target", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("by", [0.99, 1.0, 1.01])
@pytest.mark.parametrize("history", [1024, 8192])
def test_the_target_is_kept_under_drift(target, by, history) -> None:
    pools = drifting(by)
    selector = SelectiveBackprop(target_fraction=target, history=history)
    assert np.mean(stream(selector, pools)[50:]) == pytest.approx(target, abs=0.02)


@pytest.mark.parametrize(("by", "sign"), [(0.99, -1), (1.01, 1)])
def test_without_a_target_the_kept_fraction_drifts_away(by, sign) -> None:
    kept = np.mean(stream(SelectiveBackprop(history=8192), drifting(by))[50:])
    assert sign * (kept - 0.5) > 0.03


def test_a_target_ranks_easy_and_hard_pools_against_each_other() -> None:
    """The controller looks beyond one pool, or each would be kept at the target."""
    selector = SelectiveBackprop(target_fraction=0.25)
    kept = stream(selector, exponential(2000, means=(0.2, 2.0)))
    assert np.mean(kept) == pytest.approx(0.25, abs=0.01)
    assert np.mean(kept[::2]) == pytest.approx(0.057, abs=0.015)


def test_a_target_with_equal_losses_is_kept_and_with_a_floor_too() -> None:
    pools = [np.full(POOL_ROWS, 0.7, np.float32)] * 200
    for floor in (0.0, 0.1):
        selector = SelectiveBackprop(target_fraction=0.2, min_probability=floor)
        assert np.mean(stream(selector, pools)) == pytest.approx(0.2, abs=0.01)


def test_the_expected_fraction_with_a_target_is_the_target() -> None:
    assert SelectiveBackprop(target_fraction=0.3).expected_fraction() == 0.3


def test_a_pool_scored_again_is_selected_again_whatever_came_between() -> None:
    """No state: scorers that saw other pools, and replays, find the same exponent."""
    fresh, used = (SelectiveBackprop(target_fraction=0.25) for _ in range(2))
    stream(used, exponential(20))
    window, losses = exponential(3)[1], exponential(3)[2]
    merged = LossDistribution.merged(window, losses, 1024)
    picks = [s.select(np.arange(POOL_ROWS), losses, merged, Draws()) for s in (fresh, used)]
    assert picks[0].indices.tolist() == picks[1].indices.tolist()


@pytest.mark.parametrize(
    ("args", "stalls"),
    [({"beta": 2}, True), ({"beta": 1}, False), ({"beta": 2, "warmup_epochs": 1}, False)],
)
def test_it_asks_for_fresh_scores_at_the_start_where_old_ones_stall_it(args, stalls) -> None:
    assert SelectiveBackprop(**args).stalls_on_old_scores is stalls
