"""Sums over the run, and what they say of its accuracy."""

import numpy as np

from raysb.scoring.records import PoolRecord
from raysb.scoring.totals import RunTotals


def pool_of(epoch: int, pool: int, scored: int, correct: int | None) -> PoolRecord:
    return PoolRecord(
        pool=pool,
        epoch=epoch,
        num_rows=10,
        num_selected=0,
        losses=np.ones(scored, np.float32),
        num_correct=correct,
        nonfinite=np.empty(0, np.int64),
        seconds=0.0,
    )


def test_an_epoch_that_is_over_for_long_can_be_asked_for() -> None:
    totals = RunTotals()
    for epoch in range(9):
        totals.add(pool_of(epoch, epoch, scored=10 - epoch, correct=0))
    assert set(totals.newest()) == {6, 7, 8}
    assert {e: sums["num_scored"] for e, sums in totals.newest(also=2).items()} == {
        2: 8,
        6: 4,
        7: 3,
        8: 2,
    }
    assert totals.newest(also=7) == totals.newest(also=30) == totals.newest()


def test_accuracy_is_that_of_the_rows_judged_in_the_newest_epoch_that_is_over() -> None:
    totals = RunTotals()
    totals.add(pool_of(0, 0, scored=10, correct=8))
    assert totals.accuracy_before(1, 20) is None  # half of the epoch is still to come
    totals.add(pool_of(0, 1, scored=0, correct=None))  # drawn unscored
    for epoch in (1, 2, 3):
        for pool in (2 * epoch, 2 * epoch + 1):
            totals.add(pool_of(epoch, pool, scored=10, correct=None))  # nobody can tell
    assert totals.accuracy_before(4, 20) == 0.8
    assert totals.accuracy_before(0, 20) is None
