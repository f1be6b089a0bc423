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
