"""HighestK and LowestK keep exactly k, the right ones, and are fair among equals."""

import numpy as np
import pytest

from raysb.seeding import Draws
from raysb.selection import HighestK, LowestK
from raysb.selection.top_k import rows_kept


def picked(selector: HighestK, losses: list[float], seed: int = 0) -> list[int]:
    values = np.array(losses, np.float32)
    return selector.select(np.arange(len(values)), values, None, Draws(seed=seed)).indices.tolist()


def test_written_out() -> None:
    losses = [3.0, 0.5, 7.0, 1.0, 2.0]
    assert picked(HighestK(fraction=0.4), losses) == [0, 2]
    assert picked(LowestK(fraction=0.4), losses) == [1, 3]
    assert picked(HighestK(fraction=1.0), losses) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 257])
@pytest.mark.parametrize("fraction", [1e-6, 0.25, 1 / 3, 0.6, 1.0])
def test_as_many_rows_are_kept_as_asked_for_and_never_none(size, fraction) -> None:
    """A share of a pool so small that it is no row would stop training without a word."""
    losses = np.random.default_rng(size).exponential(size=size).tolist()
    for cls in (HighestK, LowestK):
        kept = len(picked(cls(fraction=fraction), losses))
        assert kept == max(round(fraction * size), 1) == rows_kept(fraction, size)


@pytest.mark.parametrize("cls", [HighestK, LowestK])
def test_they_are_those_of_a_sort(cls) -> None:
    losses = np.random.default_rng(0).permutation(500).astype(np.float32)
    order = np.argsort(losses)
    wanted = order[-150:] if cls is HighestK else order[:150]
    assert picked(cls(fraction=0.3), losses.tolist()) == sorted(wanted.tolist())


def test_rows_level_with_the_last_one_get_the_places_left_equally_often() -> None:
    """Two of the five 1s, whatever their places in the pool; argsort would take the first."""
    losses = np.float32([1, 5, 1, 1, 0, 1, 1])
    counts = np.zeros(7)
    for seed in range(4000):
        selector = HighestK(fraction=3 / 7)
        chosen = selector.select(np.arange(7), losses, None, Draws(seed=seed))
        counts[chosen.indices] += 1
        assert chosen.probability[chosen.indices == 1] == 1
        assert chosen.probability[chosen.indices != 1].tolist() == pytest.approx([0.4, 0.4])
    assert counts[1] == 4000
    assert counts[4] == 0
    tied = counts[[0, 2, 3, 5, 6]] / 4000
    assert abs(tied - 0.4).max() < 4.5 * np.sqrt(0.24 / 4000)


@pytest.mark.parametrize("cls", [HighestK, LowestK])
@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(cls, fraction) -> None:
    with pytest.raises(ValueError, match=rf"{cls.__name__}\(fraction={fraction!r}\): must be"):
        cls(fraction=fraction)
