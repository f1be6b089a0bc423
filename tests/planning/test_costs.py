"""The arithmetic of an epoch, against tables that were worked out by hand."""

import math

import pytest

from raysb.planning.costs import (
    UNIFORM,
    Processors,
    RowCosts,
    Work,
    best_split,
    gain,
    gain_apart,
    gain_at_best,
    mean_work,
    scorers_needed,
    seconds_apart,
    seconds_together,
)

# r, then the speed-up for s = .10, .25, .33, .50 and for Stale-SB n = 3 at s = .25, .33
TABLE = """
.412 1.95 1.51 1.34 1.10 2.58 2.12
.333 2.31 1.71 1.50 1.20 2.77 2.25
.29  2.56 1.85 1.60 1.27 2.88 2.33
.20  3.33 2.22 1.88 1.43 3.16 2.50
.12  4.55 2.70 2.21 1.61 3.45 2.68
0    10   4.0  3.0  2.0  4.0  3.0
"""
KEPT = (0.10, 0.25, 1 / 3, 0.50)


def costs(r: float, read: float = 0.0) -> RowCosts:
    return RowCosts(read=read, score=r, train=1.0)


@pytest.mark.parametrize("line", TABLE.split("\n")[1:-1])
def test_the_gain_is_that_of_the_worked_table(line) -> None:
    r, *expected = map(float, line.split())
    scored_always = [gain(Work(kept=s), costs(r)) for s in KEPT]
    stale = [gain(Work(scored=1 / 3, kept=s), costs(r)) for s in KEPT[1:3]]
    # the table has .33 for a third, and two digits
    assert [*scored_always, *stale] == pytest.approx(expected, rel=0.011)


@pytest.mark.parametrize("r", [0.1, 0.333, 0.7])
@pytest.mark.parametrize("read", [0.0, 0.4])
def test_the_gain_passes_1_at_a_kept_fraction_of_1_minus_r_however_dear_reading_is(r, read) -> None:
    at = costs(r, read)
    assert at.break_even == pytest.approx(1 - r)
    assert gain(Work(kept=at.break_even), at) == pytest.approx(1)
    assert gain(Work(kept=at.break_even - 0.01), at) > 1 > gain(Work(kept=at.break_even + 0.01), at)


def test_less_kept_and_less_scored_never_take_longer() -> None:
    at, by = costs(0.3, 0.1), Processors(scorers=2, trainers=3, cores=5)
    shares = [i / 20 for i in range(1, 21)]
    for name in ("kept", "scored", "read"):
        works = [Work(**{name: share}) for share in shares]
        for seconds in (
            [seconds_together(w, at) for w in works],
            [seconds_apart([w], at, by) for w in works],
        ):
            assert seconds == sorted(seconds)


def test_with_scorers_elsewhere_the_gain_stays_below_that_of_training_alone() -> None:
    """As in Amdahl's law: what is trained is not sped up by scorers."""
    at, work = costs(0.3), Work(kept=0.25)
    assert gain_at_best(work) == 4
    found = []
    for scorers in (1, 2, 4, 100):
        seconds = seconds_apart([work], at, Processors(scorers=scorers), ray=0.0)
        found.append(1 / seconds)
    assert found == pytest.approx([1 / 0.3, 4, 4, 4])  # one scorer is the slower side


def test_uniform_on_the_scorers_processors_too_is_what_scorers_elsewhere_must_beat() -> None:
    at, work = costs(0.25), Work(kept=0.5)
    one_each = Processors(scorers=1, trainers=1)
    # .5 in the trainer, .25 in the scorer; uniform on two: .5
    assert gain_apart([work], at, one_each, ray=0.0) == pytest.approx(1.0)
    beside_a_gpu = Processors(scorers=1, trainers=1, uniform=1)
    assert gain_apart([work], at, beside_a_gpu, ray=0.0) == pytest.approx(2.0)


def test_no_split_of_the_cores_beats_one_process_by_more_than_the_cores() -> None:
    """Work is conserved: elsewhere is on cores that could train too."""
    at = costs(0.3, 0.05)
    for cores in (2, 3, 8):
        for kept in (0.1, 0.33, 0.9):
            split = best_split([Work(kept=kept)], at, cores, ray=0.0)
            assert split is not None
            assert split.scorers + split.trainers == cores
            beside = gain_apart([Work(kept=kept)], at, split, ray=0.0)
            assert beside <= gain(Work(kept=kept), at) + 1e-12
    assert best_split([UNIFORM], at, 1) is None


def test_cores_that_scorers_trainers_and_ray_share_bound_the_pipeline() -> None:
    at = costs(0.3)
    by = Processors(scorers=1, trainers=1, cores=1)
    assert seconds_apart([Work(kept=0.5)], at, by, ray=0.2) == pytest.approx(0.3 + 0.5 + 0.2)


def test_each_epoch_has_its_own_slower_side() -> None:
    at, by = costs(0.4), Processors(scorers=1, trainers=1)
    epochs = [Work(kept=0.2), Work(read=0.2, scored=0.0, kept=0.2)]
    assert mean_work(epochs) == Work(read=0.6, scored=0.5, kept=0.2)
    assert seconds_apart(epochs, at, by, ray=0.0) == pytest.approx((0.4 + 0.2) / 2)


def test_so_many_scorers_keep_the_trainers_busy_and_one_fewer_does_not() -> None:
    at, work = costs(0.3, 0.05), Work(kept=0.25)
    for trainers in (1, 2, 7):
        number = scorers_needed([work], at, trainers)
        assert number == math.ceil(0.35 * trainers / 0.25)
        alone = 0.25 / trainers
        enough = Processors(scorers=number, trainers=trainers)
        fewer = Processors(scorers=number - 1, trainers=trainers)
        assert seconds_apart([work], at, enough, ray=0.0) == pytest.approx(alone)
        assert seconds_apart([work], at, fewer, ray=0.0) > alone


def test_scorers_without_the_trainers_device_take_their_own_time_and_only_apart() -> None:
    """As CPUs beside a GPU: .3 where it is trained, 2 elsewhere."""
    at = RowCosts(read=0.1, score=0.3, train=1.0, elsewhere=2.0)
    work, by = Work(kept=0.5), Processors(scorers=3, trainers=1, uniform=1)
    assert seconds_apart([work], at, by, ray=0.0) == pytest.approx((0.1 + 2.0) / 3)
    assert gain_apart([work], at, by, ray=0.0) == pytest.approx(1.1 * 3 / 2.1)
    assert scorers_needed([work], at) == math.ceil(2.1 / 0.5)
    crowded = Processors(scorers=10, trainers=10, cores=2)
    assert seconds_apart([work], at, crowded, ray=0.2) == pytest.approx((2.1 + 0.5 + 0.2) / 2)
    assert seconds_together(work, at) == pytest.approx(0.1 + 0.3 + 0.5)
    assert (at.ratio, at.break_even) == pytest.approx((0.3, 0.7))


def test_costs_out_of_range_are_refused() -> None:
    for name, value in (("train", 0.0), ("score", -1.0), ("read", math.nan)):
        given = {"read": 0.0, "score": 0.0, "train": 1.0, name: value}
        with pytest.raises(ValueError, match=rf"RowCosts\({name}="):
            RowCosts(**given)
