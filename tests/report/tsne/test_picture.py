"""What a picture of a map shows: read back from the artists of its figure."""

import builtins
import io

import numpy as np
import pytest

from raysb.report.tsne.picture import class_colours, draw_points, need_matplotlib
from raysb.report.tsne.points import Points

pytest.importorskip("matplotlib")


def points(count=40, classes=10, **known):
    rng = np.random.default_rng(0)
    known.setdefault("labels", np.arange(count) % classes)
    return Points(ids=np.arange(count), xy=rng.normal(size=(count, 2)).astype("f4"), **known)


def drawn(of):
    figure = draw_points(of, "a title")
    figure.savefig(io.BytesIO(), format="png", dpi=40)  # what cannot be drawn, fails
    return figure


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


def test_there_is_a_panel_for_each_thing_that_is_known() -> None:
    losses = np.linspace(0, 3, 40, dtype=np.float32)
    times = np.arange(40, dtype=np.int32) % 4
    assert titles(drawn(points())) == ["class"]
    assert titles(drawn(points(labels=None))) == [""]
    figure = drawn(points(losses=losses, times_selected=times))
    assert titles(figure) == ["class", "loss", "times selected"]
    assert figure._suptitle.get_text() == "a title"
    values = drawn(points(labels=losses, are_classes=False))
    assert titles(values) == ["label"]


def test_every_point_is_drawn_once_in_every_panel() -> None:
    losses = np.full(40, 0.5, np.float32)
    losses[:3] = np.nan
    figure = drawn(points(losses=losses))
    assert titles(figure)[1] == "loss (grey: 3 without)"
    for axis in figure.axes[:2]:
        shown = np.concatenate([each.get_offsets() for each in axis.collections])
        expected = points().xy
        assert sorted(map(tuple, shown.tolist())) == sorted(map(tuple, expected.tolist()))
        (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
        assert left < expected[:, 0].min() < expected[:, 0].max() < right
        assert low < expected[:, 1].min() < expected[:, 1].max() < high
        assert right - left == pytest.approx(high - low)  # distances are the same in x and y


def test_few_points_are_letters_without_a_legend_and_many_are_dots_with_one() -> None:
    (few,) = drawn(points()).axes
    assert few.get_legend() is None
    vertices = {len(each.get_paths()[0].vertices) for each in few.collections}
    assert len(vertices) > 3  # digits differ
    (many,) = drawn(points(count=1001)).axes
    assert {len(each.get_paths()[0].vertices) for each in many.collections} == {26}  # circles
    told = [each.get_text() for each in many.get_legend().get_texts()]
    assert told == [str(digit) for digit in range(10)]


def test_names_of_classes_are_told_in_the_legend() -> None:
    rng = np.random.default_rng(0)
    named = Points(
        ids=np.arange(9),
        xy=rng.normal(size=(9, 2)).astype("f4"),
        labels=np.arange(9) % 3,
        classes=["ant", "bee", "cow", "dog"],
    )
    (axis,) = drawn(named).axes
    told = [each.get_text() for each in axis.get_legend().get_texts()]
    assert told == ["0 ant", "1 bee", "2 cow"]


def test_wrong_rows_get_a_ring_unless_they_are_many() -> None:
    right = np.arange(40) % 10
    wrong = right.copy()
    wrong[[3, 8]] += 1
    of = points(predictions=wrong)
    (axis,) = drawn(of).axes
    assert axis.get_title() == "class (rings: 2 of 40 taken for another)"
    np.testing.assert_array_equal(axis.collections[-1].get_offsets(), of.xy[[3, 8]])
    (axis,) = drawn(points(predictions=right + 1)).axes
    assert axis.get_title() == "class (40 of 40 taken for another)"
    assert sum(len(each.get_offsets()) for each in axis.collections) == 40


def test_times_selected_have_a_colour_each_up_to_twelve() -> None:
    for most, steps in ((0, 2), (3, 4), (12, 13), (13, 256)):
        times = np.minimum(np.arange(40), most).astype(np.int32)
        axis = drawn(points(times_selected=times)).axes[1]
        assert axis.collections[-1].cmap.N == steps, most


def test_every_class_has_a_colour_of_its_own() -> None:
    for labels in (range(10), [3, 700], range(37)):
        colours = class_colours(list(labels))
        assert len({tuple(np.ravel(colour)) for colour in colours.values()}) == len(labels)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"a picture needs .*pip install matplotlib"):
        need_matplotlib("a picture")
