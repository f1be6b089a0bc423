"""Ranks equal those of scipy and of the original code."""

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raysb.selection.distribution import CountedWindow, LossDistribution
from raysb.selection.histogram import LossHistogram

VALUES = st.lists(st.floats(0, 8, width=16), min_size=1, max_size=40)


def floats(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def test_ranks_of_the_written_out_case() -> None:
    distribution = LossDistribution(floats([1, 2, 2, 3]))
    asked = floats([1, 2, 3])
    assert distribution.cdf(asked, "strict").tolist() == [0, 0.25, 0.75]
    assert distribution.cdf(asked, "mid").tolist() == [0.125, 0.5, 0.875]


def test_the_window_slides_as_a_deque_does() -> None:
    window = floats([1, 2, 3, 4])
    full = LossDistribution.merged(window[:0], window, 4)
    assert full.cdf(floats([3]), "strict").tolist() == [0.5]
    assert LossDistribution.merged(window, floats([5]), 4).cdf(floats([3]), "strict") == [0.25]


@given(VALUES, VALUES)
def test_strict_and_mid_ranks_are_those_of_scipy(history, asked) -> None:
    distribution = LossDistribution(floats(history))
    for kind, ties in (("strict", "strict"), ("mean", "mid")):
        wanted = [stats.percentileofscore(floats(history), a, kind) / 100 for a in floats(asked)]
        np.testing.assert_allclose(distribution.cdf(floats(asked), ties), wanted, atol=1e-12)


@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(1, 30))
def test_the_pool_is_appended_whole_before_it_is_ranked(pools, capacity) -> None:
    window: deque[float] = deque(maxlen=capacity)
    for pool in pools:
        merged = LossDistribution.merged(floats(list(window)), floats(pool), capacity)
        window.extend(floats(pool).tolist())
        assert len(merged) == len(window)
        wanted = [sum(h < x for h in window) / len(window) for x in floats(pool).tolist()]
        np.testing.assert_allclose(merged.cdf(floats(pool), "strict"), wanted, atol=1e-12)


WHOLE = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@given(WHOLE, WHOLE, st.sampled_from(["strict", "mid"]))
def test_an_increasing_map_of_all_losses_changes_no_rank(history, asked, ties) -> None:
    def ranks(mapped: Callable[[float], float]) -> list[float]:
        distribution = LossDistribution(floats([mapped(h) for h in history]))
        return distribution.cdf(floats([mapped(a) for a in asked]), ties).tolist()

    assert ranks(lambda x: x) == ranks(lambda x: x**2) == ranks(lambda x: -1 / (x + 1))


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 losses are not finite"):
        LossDistribution(floats([1, np.nan]))
    with pytest.raises(ValueError, match="no losses to rank against"):
        LossDistribution(floats([])).cdf(floats([1]))


@given(VALUES, VALUES)
def test_the_interval_of_a_loss_is_between_its_strict_and_its_weak_rank(history, asked) -> None:
    distribution = LossDistribution(floats(history))
    starts, ends = distribution.interval(floats(asked))
    for start, end, loss in zip(starts, ends, floats(asked), strict=True):
        if loss in floats(history):
            wanted = [
                stats.percentileofscore(floats(history), loss, kind) / 100
                for kind in ("strict", "weak")
            ]
            np.testing.assert_allclose([start, end], wanted, atol=1e-12)
        else:  # the 1/R beside it
            assert end - start == pytest.approx(1 / len(history))
            assert start - 1e-12 <= sum(h < loss for h in history) / len(history) <= end + 1e-12
            assert 0 <= start < end <= 1


def test_recent_losses_are_the_last_in_the_order_of_arrival() -> None:
    merged = LossDistribution.merged(floats([9, 1, 8]), floats([2, 7]), 4)
    assert merged.recent(3).tolist() == [8, 2, 7]
    assert merged.recent(0).tolist() == []
    assert merged.recent(99).tolist() == [1, 8, 2, 7]


@pytest.mark.parametrize("counted", [False, True], ids=["losses", "counts"])
def test_the_accuracy_of_training_is_handed_on_as_it_was_given(counted) -> None:
    window, own = floats([3, 1]), floats([2])
    known = CountedWindow(LossHistogram(floats([5])), window) if counted else window
    assert LossDistribution.merged(known, own, 9).accuracy is None
    assert LossDistribution.merged(known, own, 9, accuracy=0.25).accuracy == 0.25
    assert LossDistribution(own).accuracy is None


def test_an_empty_distribution_ranks_nothing() -> None:
    empty = LossDistribution(floats([]))
    for ask in (empty.cdf, empty.interval):
        with pytest.raises(ValueError, match="no losses to rank against"):
            ask(floats([1]))
