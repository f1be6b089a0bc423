"""The collector of garbage is set back, whatever ends the block."""

import gc

import pytest

from raysb.collecting import RARELY, collecting_rarely


def test_the_collector_is_rare_in_the_block_alone() -> None:
    before, inside = gc.get_threshold(), []

    def fail() -> None:
        with collecting_rarely():
            inside.append(gc.get_threshold())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [RARELY]
    assert gc.get_threshold() == before != RARELY


def test_blocks_of_two_threads_that_overlap_leave_what_was_before() -> None:
    before, first, second = gc.get_threshold(), collecting_rarely(), collecting_rarely()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == RARELY
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


@pytest.mark.parametrize("mine", [(0, 10, 10), (100_000, 50, 50)])
def test_who_looks_more_rarely_or_never_goes_on_so(mine) -> None:
    before = gc.get_threshold()
    gc.set_threshold(*mine)
    try:
        with collecting_rarely():
            assert gc.get_threshold() == mine
        assert gc.get_threshold() == mine
    finally:
        gc.set_threshold(*before)
