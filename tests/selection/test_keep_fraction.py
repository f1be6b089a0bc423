"""A fixed share of a pool, with weights by rank."""

import numpy as np
import pytest

from raysb.seeding import Draws
from raysb.selection.keep_fraction import KeepFraction


def pool(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=size).astype(np.float32)


def kept(selector: KeepFraction, losses: np.ndarray, draws: Draws | None = None) -> np.ndarray:
    return selector.select(np.arange(len(losses)), losses, None, draws or Draws()).indices


@pytest.mark.parametrize(
    ("size", "fraction", "count"),
    [(15, 0.5, 8), (10, 0.33, 3), (3, 0.25, 1), (1, 0.5, 1), (0, 0.5, 0), (16, 0.25, 4), (9, 1, 9)],
)
def test_how_many_rows_are_kept(size, fraction, count) -> None:
    """The source keeps int(f n): of 3 rows at f = .25, and of one at .5, none."""
    for seed in range(5):
        rows = kept(KeepFraction(fraction=fraction), pool(size), Draws(seed=seed))
        assert len(rows) == len(set(rows.tolist())) == count


def test_weights_by_rank_draw_what_the_source_draws_from_the_same_numbers() -> None:
    """The source's lines, given our weights: the same rows of the same stream."""

    def source(losses: np.ndarray, keep: float, stream: np.random.RandomState) -> np.ndarray:
        number = len(losses)
        percs = np.arange(0.5, number, 1) / number
        probs = percs ** ((1.0 / keep) - 1.0)
        chosen = stream.choice(number, int(keep * number), replace=False, p=probs / probs.sum())
        return np.argsort(losses)[chosen]

    for seed in range(100):
        losses, keep = pool(48, seed), (0.5, 0.33, 0.25)[seed % 3]
        weights = np.exp(KeepFraction(fraction=keep).log_weights(48))
        stream = np.random.RandomState(seed)
        chances = weights / weights.sum()
        ours = np.argsort(losses)[stream.choice(48, int(keep * 48), replace=False, p=chances)]
        assert ours.tolist() == source(losses, keep, np.random.RandomState(seed)).tolist()


def test_the_choice_is_softer_than_by_the_rank_alone() -> None:
    """Of 128 rows at f = .5: the highest has chance .794, the lower half 31 % of the places."""
    losses = np.sort(pool(128))
    counts = np.zeros(128)
    for seed in range(4000):
        counts[kept(KeepFraction(), losses, Draws(seed=seed))] += 1
    assert counts[-1] / 4000 == pytest.approx(0.794, abs=0.025)
    assert counts[0] / 4000 == pytest.approx(0.006, abs=0.006)
    assert counts[:64].sum() / counts.sum() == pytest.approx(0.310, abs=0.005)
    chances = KeepFraction().select(np.arange(128), losses, None, Draws()).probability
    assert chances.max() <= 0.80


def test_level_losses_are_kept_alike_and_say_so() -> None:
    losses = np.float32([2, 1, 2, 1, 2, 2, 1, 3])
    counts, chances = np.zeros(8), np.zeros(8)
    for seed in range(6000):
        rows, probability, _ = KeepFraction().select(
            np.arange(8) * 11, losses, None, Draws(seed=seed)
        )
        counts[rows] += 1
        chances[rows] = probability
    golden = [0.0867, 0.2456, 0.3842, 0.5014, 0.5972, 0.6729, 0.7325, 0.7795]
    wanted = {1: np.mean(golden[:3]), 2: np.mean(golden[3:7]), 3: golden[7]}
    np.testing.assert_allclose(chances, [wanted[loss] for loss in losses.tolist()], atol=0.005)
    np.testing.assert_allclose(counts / 6000, [wanted[x] for x in losses.tolist()], atol=0.03)


def test_outside_its_epochs_every_row_is_kept() -> None:
    selector = KeepFraction(start_epoch=5, end_epoch=9, whole_every=2)
    sizes = []
    for epoch in range(10):
        rows, probability, weight = selector.select(
            np.arange(20), pool(20), None, Draws(epoch=epoch)
        )
        sizes.append(len(rows))
        assert (probability == 1).all() or len(rows) == 10
        assert (weight == 1).all()
    assert sizes == [20, 20, 20, 20, 20, 10, 20, 10, 20, 20]


@pytest.mark.parametrize("value", [0, -0.5, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(value) -> None:
    with pytest.raises(ValueError, match=r"KeepFraction\(fraction=.*\): must be a number above 0"):
        KeepFraction(fraction=value)


def test_a_schedule_that_never_selects_is_refused() -> None:
    with pytest.raises(ValueError, match=r"KeepFraction\(whole_every=1\)"):
        KeepFraction(whole_every=1)
