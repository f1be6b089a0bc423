"""A schedule, a cap, a floor for classes and exploration, on top of any selection."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.schema import Selection
from raysb.seeding import Draws
from raysb.selection.adjustments import Adjustments


def chosen(rows: list[int], probability: float = 0.5) -> Selection:
    ones = np.ones(len(rows), np.float32)
    return Selection(np.array(rows, np.int64), ones * np.float32(probability), ones * 3)


def content(selection: Selection) -> list[list[float]]:
    return [column.tolist() for column in selection]


IDS = np.arange(8) * 5
CLASSES = np.array([7, 7, 7, 7, 2, 2, 2, 9])


def test_by_default_nothing_is_changed() -> None:
    selection = chosen([1, 4, 6])
    plain = Adjustments()
    assert not plain.needs_classes
    assert not plain.needs_times_selected
    assert content(plain.apply(selection, IDS, draws=Draws())) == content(selection)


def test_outside_the_schedule_every_row_is_taken() -> None:
    adjust = Adjustments(start_epoch=2, end_epoch=5, whole_every=2, max_selected=3)
    sizes = []
    for epoch in range(6):
        rows, probability, weight = adjust.apply(
            chosen([1]), IDS, times_selected=np.zeros(8, int), draws=Draws(epoch=epoch)
        )
        sizes.append(len(rows))
        assert (weight == 1).all() or len(rows) == 1
        assert (probability == 1).all() or len(rows) == 1
    assert sizes == [8, 8, 1, 8, 1, 8]


def test_a_cap_that_the_epochs_before_the_start_use_up_is_refused() -> None:
    with pytest.raises(ValueError, match="the cap must be above start_epoch"):
        Adjustments(start_epoch=2, max_selected=2)
    Adjustments(start_epoch=2, max_selected=3)


def test_rows_that_were_selected_often_enough_are_left_out() -> None:
    times = np.array([0, 3, 2, 9, 3, 1, 2, 0])
    found = Adjustments(max_selected=3).apply(
        chosen([0, 1, 2, 3, 6]), IDS, times_selected=times, draws=Draws()
    )
    assert content(found) == [[0, 2, 6], [0.5] * 3, [3.0] * 3]


def test_each_class_keeps_its_floor() -> None:
    """Of 4, 3 and 1 rows half are 2, 2 and 0 (halves to the even); 1 and 1 are missing."""
    rows, probability, weight = Adjustments(class_floor=0.5).apply(
        chosen([0, 5]), IDS, classes=CLASSES, draws=Draws()
    )
    assert {0, 5} <= set(rows.tolist())
    assert np.bincount(CLASSES[rows], minlength=10)[[7, 2, 9]].tolist() == [2, 2, 0]
    known = {0: (0.5, 3), 5: (0.5, 3)}
    for row, p, w in zip(rows.tolist(), probability.tolist(), weight.tolist(), strict=True):
        wanted = known.get(row, (1 / 3 if row < 4 else 1 / 2, 1))
        assert (p, w) == pytest.approx(wanted)


def test_rows_for_the_floor_are_drawn_evenly() -> None:
    counts = np.zeros(8)
    for seed in range(6000):
        found = Adjustments(class_floor=0.5).apply(
            chosen([0, 5]), IDS, classes=CLASSES, draws=Draws(seed=seed)
        )
        counts[found.indices] += 1
    wanted = np.array([1, *[1 / 3] * 3, 1 / 2, 1, 1 / 2, 0])
    deviation = np.sqrt(wanted * (1 - wanted) / 6000)
    assert (abs(counts / 6000 - wanted) <= 4.5 * deviation).all()


def test_the_floor_takes_no_row_that_the_cap_left_out() -> None:
    times = np.array([0, 5, 5, 5, 5, 5, 5, 0])
    found = Adjustments(class_floor=1, max_selected=5).apply(
        chosen([0, 4]), IDS, classes=CLASSES, times_selected=times, draws=Draws()
    )
    assert content(found) == [[0, 7], [0.5, 1], [3, 1]]


def test_exploration_takes_rows_that_the_cap_left_out_too() -> None:
    times = np.full(8, 5)
    counts = np.zeros(8)
    adjust = Adjustments(max_selected=5, explore=0.2)
    for seed in range(4000):
        rows, probability, weight = adjust.apply(
            chosen([0, 4]), IDS, times_selected=times, draws=Draws(seed=seed)
        )
        counts[rows] += 1
        assert probability.tolist() == pytest.approx([0.2] * len(rows))
        assert (weight == 1).all()
    assert (abs(counts / 4000 - 0.2) < 4.5 * np.sqrt(0.16 / 4000)).all()


def test_with_exploration_a_row_is_as_likely_as_its_probability_says() -> None:
    """A selector with p = .3 and exploration of .1: 1 - .7 * .9 = .37."""
    counts, rounds = np.zeros(8), 6000
    for seed in range(rounds):
        draws = Draws(seed=seed)
        picked = np.flatnonzero(draws.uniform(IDS) < 0.3).tolist()
        rows, probability, _ = Adjustments(explore=0.1).apply(chosen(picked, 0.3), IDS, draws=draws)
        counts[rows] += 1
        for row, p in zip(rows.tolist(), probability.tolist(), strict=True):
            assert p == pytest.approx(0.37 if row in picked else 0.1)
    assert (abs(counts / rounds - 0.37) < 4.5 * np.sqrt(0.37 * 0.63 / rounds)).all()


def test_exploration_of_1_takes_every_row() -> None:
    rows, probability, weight = Adjustments(explore=1).apply(chosen([2]), IDS, draws=Draws())
    assert rows.tolist() == list(range(8))
    assert probability.tolist() == [1] * 8
    assert weight.tolist() == [1, 1, 3, 1, 1, 1, 1, 1]


def test_a_row_that_was_drawn_twice_stays_twice() -> None:
    found = Adjustments(class_floor=0.5, explore=0.0).apply(
        chosen([0, 0, 4, 5]), IDS, classes=CLASSES, draws=Draws()
    )
    rows = found.indices.tolist()
    assert rows.count(0) == 2
    assert len(set(rows) & {0, 1, 2, 3}) == 2  # two different ones


@given(
    st.lists(st.tuples(st.integers(-2, 3), st.integers(0, 4), st.booleans()), max_size=30),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_what_holds_of_any_pool(rows, floor, explore, cap, shuffle) -> None:
    """Ascending rows, floors met where the cap allows it, and the same rows in any order."""
    classes, times = (np.array([row[i] for row in rows], np.int64) for i in (0, 1))
    ids, picked = np.arange(len(rows)), [i for i, row in enumerate(rows) if row[2]]
    adjust = Adjustments(max_selected=cap, class_floor=floor, explore=explore)

    def apply(order: list[int]) -> list[int]:
        place = {row: position for position, row in enumerate(order)}
        found = adjust.apply(
            chosen(sorted(place[row] for row in picked)),
            ids[order],
            classes=classes[order],
            times_selected=times[order],
            draws=Draws(seed=1, epoch=2),
        )
        assert (np.diff(found.indices) > 0).all()
        assert ((found.probability > 0) & (found.probability <= 1)).all()
        assert found.indices.dtype == np.int64
        assert found.probability.dtype == found.weight.dtype == np.float32
        return sorted(ids[order][found.indices].tolist())

    order = list(range(len(rows)))
    taken = apply(order)
    shuffle.shuffle(order)
    assert apply(order) == taken
    assert {row for row in picked if times[row] < cap} <= set(taken)
    for each in set(classes.tolist()):
        members = classes == each
        allowed = int((members & (times < cap)).sum())
        wanted = min(round(floor * int(members.sum())), allowed)
        assert sum(members[row] for row in taken) >= wanted


def test_an_empty_pool_stays_empty() -> None:
    nothing = np.zeros(0, np.int64)
    adjust = Adjustments(max_selected=1, class_floor=0.5, explore=0.5)
    found = adjust.apply(
        chosen([]), nothing, classes=nothing, times_selected=nothing, draws=Draws()
    )
    assert content(found) == [[], [], []]


def test_what_is_needed_and_not_given_is_named() -> None:
    for adjust, known, message in [
        (Adjustments(class_floor=0.1), {}, r"classes=None\): class_floor needs one for each of"),
        (Adjustments(class_floor=0.1), {"classes": np.zeros(3, int)}, "classes=3 values"),
        (Adjustments(max_selected=2), {}, r"times_selected=None\): max_selected needs one"),
    ]:
        assert adjust.needs_classes == (adjust.class_floor > 0)
        assert adjust.needs_times_selected == (adjust.max_selected is not None)
        with pytest.raises(ValueError, match=message):
            adjust.apply(chosen([1]), IDS, **known, draws=Draws())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("explore", -0.1),
        ("explore", 1.1),
        ("class_floor", float("nan")),
        ("max_selected", 0),
        ("start_epoch", -1),
        ("end_epoch", 0),
        ("whole_every", 1),
    ],
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"Adjustments\({name}={value!r}\): must be"):
        Adjustments(**{name: value})
