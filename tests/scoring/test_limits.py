"""From a bound on the age to rows and pools in flight: hand-computed, tight and refused in time."""

import itertools
import re

import pytest

from raysb.scoring.limits import age_bound, limits_as_grown, limits_for, smallest_max_rows

# n, B, W, m: smallest K, smallest age, worked out by hand from the formulas of the design
TABLE = [
    (256, 64, 1, 1, 64, 4),  # (63 + 256) / 64 = 4.98 -> 5 - 1
    (256, 64, 1, 2, 64, 5),
    (256, 64, 1, 5, 64, 8),
    (256, 64, 2, 1, 383, 6),  # K = 126 + 256 + 1; (382 + 512) / 128 = 6.98 -> 7 - 1
    (128, 32, 4, 1, 509, 7),  # K = 124 + 384 + 1; (508 + 512) / 128 = 7.97 -> 8 - 1
    (1, 1, 1, 1, 1, 0),
    (100, 7, 3, 1, 219, 24),  # K = 18 + 200 + 1; (218 + 300) / 21 = 24.67 -> 25 - 1
    (10, 64, 2, 1, 137, 1),  # K = 126 + 10 + 1; (136 + 20) / 128 = 1.2 -> 2 - 1
]


@pytest.mark.parametrize(("n", "b", "w", "m", "least_rows", "least_age"), TABLE)
def test_the_smallest_bounds_are_those_worked_out_by_hand(n, b, w, m, least_rows, least_age):
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
    assert smallest_max_rows(**sizes) == least_rows
    assert age_bound(max_rows=least_rows, window=1, publish_every=m, **sizes) == least_age
    if least_age == 0:
        return  # 0 asks for lockstep
    limits = limits_for(least_age, num_actors=3, publish_every=m, **sizes)
    assert limits.max_age <= least_age
    assert limits.max_rows >= least_rows
    assert limits.window >= 1
    assert limits.global_batch == w * b
    if least_age > 1:
        with pytest.raises(ValueError, match=rf"smallest bound is {least_age} steps") as caught:
            limits_for(least_age - 1, num_actors=3, publish_every=m, **sizes)
        for part in (f"max_staleness_steps={least_age - 1}", f"scoring.batch_size={n}", "lockstep"):
            assert part in str(caught.value)


SIZES = list(itertools.product((1, 5, 64), (1, 7, 32), (1, 2, 4), (1, 3), (1, 4)))


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 8, 40, 1000])
def test_a_bound_is_kept_deadlock_free_and_used_up_or_refused_with_one_that_is_taken(bound):
    for n, b, w, m, actors in SIZES:
        sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
        try:
            limits = limits_for(bound, num_actors=actors, publish_every=m, **sizes)
        except ValueError as error:
            least = int(re.search(r"smallest bound is (\d+)", str(error))[1])
            assert least > bound
            assert limits_for(least, num_actors=actors, publish_every=m, **sizes).max_age <= least
            continue
        assert limits.max_age <= bound
        assert limits.max_rows >= smallest_max_rows(**sizes)
        assert 1 <= limits.window <= 2 * actors
        more = {"max_rows": limits.max_rows + 1, "window": limits.window, "publish_every": m}
        assert age_bound(**more, **sizes) > bound  # no row in flight is given away


def test_auto_is_never_refused_and_leaves_room_for_a_pool_and_a_step() -> None:
    for n, b, w, m, actors in SIZES:
        sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
        limits = limits_for("auto", num_actors=actors, publish_every=m, **sizes)
        assert limits.max_rows >= smallest_max_rows(**sizes) + max(n, w * b)
        assert limits.window == 2 * actors
        assert limits.max_age == age_bound(
            max_rows=limits.max_rows, window=limits.window, publish_every=m, **sizes
        )


def test_none_gates_nothing_and_zero_is_lockstep_with_the_ages_of_the_carried_rest() -> None:
    sizes = {"pool_rows": 100, "batch_size": 32, "num_workers": 2, "num_actors": 3}
    free = limits_for(None, **sizes)
    assert (free.max_rows, free.window, free.max_age, free.lockstep) == (None, None, None, False)
    lockstep = limits_for(0, **sizes)
    assert lockstep.lockstep
    assert lockstep.max_age == 2  # ceil(100 / 64)


@pytest.mark.parametrize(
    ("bound", "n", "counts"),
    [
        (0, 256, [2]),  # lockstep: more take turns
        ("auto", 256, [2, 3, 4, 5, 6]),
        (None, 256, [2, 3, 4, 5, 6]),
        (8, 256, [2]),  # K = 65 < n: one pool at a time, however many scorers there are
        (4, 64, [2]),  # S = 4, but K = 65 is two pools
        (40, 64, [2, 3, 4, 5, 6]),
    ],
)
def test_a_pool_of_scorers_may_grow_as_far_as_the_bound_lets_them_score_side_by_side(
    bound, n, counts
):
    sizes = {"pool_rows": n, "batch_size": 64, "num_workers": 1}
    grown = limits_as_grown(bound, num_actors=(2, 6), **sizes)
    assert [limits.num_actors for limits in grown] == counts
    assert grown[0] == limits_for(bound, num_actors=2, **sizes)
    for limits in grown[1:]:
        assert limits.at_once(n) >= limits.num_actors
        if isinstance(bound, int):
            assert limits.max_age <= bound


def test_with_auto_few_scorers_promise_younger_scores_than_many():
    grown = limits_as_grown("auto", pool_rows=64, batch_size=32, num_workers=2, num_actors=(1, 6))
    ages = [limits.max_age for limits in grown]
    assert ages == sorted(set(ages))
