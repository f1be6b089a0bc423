"""The contact sheet: every pixel of a small picture a square of its own."""

import numpy as np
import pytest

from raysb.inspect_history.sheet import COLUMNS, GAP, LINE, Line, draw_sheet

TOP = 15 + 2 * GAP


def pictures(count, height, width, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), np.uint8)


def cell(sheet, number, size, high, wide, lines=1):
    """What lies where picture `number` should be, from the laws of the layout alone."""
    x = GAP + number % COLUMNS * (wide + GAP)
    y = TOP + number // COLUMNS * (high + lines * LINE + GAP)
    return np.asarray(sheet)[y + high - size[0] : y + high, x : x + size[1]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "factor"), [(8, 12), (28, 3), (32, 3), (96, 1), (120, 1)])
def test_a_small_picture_is_enlarged_by_whole_pixels(side, factor, channels) -> None:
    given = pictures(13, side, side, channels)
    sheet = draw_sheet(list(given), [[Line("a")]] * 13, "title")
    large = side * factor
    for number, each in enumerate(given):
        colour = np.repeat(each, 3, axis=2) if channels == 1 else each
        expected = np.kron(colour, np.ones((factor, factor, 1), np.uint8))
        found = cell(sheet, number, (large, large), large, max(large, 96))
        np.testing.assert_array_equal(found, expected)


def test_a_large_picture_is_shrunk_and_keeps_its_proportions() -> None:
    sheet = draw_sheet(list(pictures(1, 200, 400, 3)), [[]], "t")
    assert sheet.size == (192 + 2 * GAP, TOP + 96 + GAP)


def test_the_sheet_is_as_wide_as_its_title_and_has_ten_pictures_in_a_row() -> None:
    sheet = draw_sheet(list(pictures(1, 8, 8, 1)), [[]], "a rather long title of a sheet" * 3)
    assert sheet.width > 400
    two_rows = draw_sheet(list(pictures(11, 96, 96, 1)), [[]] * 11, "t")
    assert two_rows.size == (10 * (96 + GAP) + GAP, TOP + 2 * (96 + GAP))


def test_text_that_is_too_wide_does_not_reach_into_the_next_picture() -> None:
    black = [np.zeros((96, 96, 1), np.uint8)] * 2
    sheet = np.asarray(draw_sheet(black, [[Line("a long name of a class " * 9)], []], "t"))
    gap = sheet[TOP:, GAP + 96 : GAP + 96 + GAP]
    assert (gap == 255).all()
    assert (sheet[TOP + 96 :, GAP : GAP + 96] < 128).any()  # there is text


def test_lines_have_their_colours() -> None:
    sheet = draw_sheet(list(pictures(1, 8, 8, 1)), [[Line("XXXXXX", "#ff0000")]], "t")
    below = np.asarray(sheet)[TOP + 96 :].reshape(-1, 3)
    assert ((below[:, 0] == 255) & (below[:, 1:] < 100).all(axis=1)).any()
