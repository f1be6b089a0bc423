"""The table of epochs with and without selection."""

import pytest

from raysb.selection.schedule import check_schedule, selects_in


@pytest.mark.parametrize(
    ("start", "end", "whole_every", "epochs"),
    [
        (0, None, 0, "1111111111"),
        (3, None, 0, "0001111111"),
        (0, 7, 0, "1111111000"),
        (5, 9, 0, "0000011110"),
        (0, None, 2, "1010101010"),
        (0, None, 3, "1101101101"),
        (5, 9, 2, "0000010100"),  # the source's defaults of a run of ten
    ],
)
def test_in_which_epochs_rows_are_selected(start, end, whole_every, epochs) -> None:
    check_schedule("Selector", start, end, whole_every)
    found = [selects_in(epoch, start, end, whole_every) for epoch in range(10)]
    assert found == [letter == "1" for letter in epochs]


@pytest.mark.parametrize(
    ("start", "end", "whole_every", "message"),
    [
        (-1, None, 0, r"Selector\(start_epoch=-1\): must be a whole number of at least 0"),
        (3, 3, 0, r"Selector\(end_epoch=3\): must be a whole number above start_epoch=3"),
        (0, 0, 0, "every epoch would be trained whole"),
        (
            0,
            None,
            1,
            r"Selector\(whole_every=1\): must be a whole number, 0 for never or at least 2",
        ),
        (0, None, -2, r"Selector\(whole_every=-2\)"),
    ],
)
def test_schedules_that_select_nothing_are_refused(start, end, whole_every, message) -> None:
    """With `interrupt=1` the source trains every batch whole and says nothing."""
    with pytest.raises(ValueError, match=message):
        check_schedule("Selector", start, end, whole_every)
