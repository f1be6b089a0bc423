"""Rows of a pool that are trained without being scored, beside those that are scored.

Some were drawn before they were read (`Selector.preselect`), others are left out of scoring just
before it (`Selector.to_score`). Their blocks have the columns of rows that were scored.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysb.schema import (
    ID,
    LOSS,
    NUM_SCORED,
    PROBABILITY,
    WEIGHT,
    WEIGHTS_STEP,
    Batch,
    Ids,
    concatenate,
    num_rows,
    take,
)
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import CountedWindow, Window

_OURS = (LOSS, WEIGHTS_STEP, PROBABILITY, WEIGHT)


class Apart(NamedTuple):
    """A pool in two: what is to be scored, and what is trained as it is."""

    fresh: Batch  # rows to score, without the columns of selection
    positions: npt.NDArray[np.int64]  # of those rows in the pool
    drawn: Batch  # the other rows, with all columns of selected rows
    drawn_positions: npt.NDArray[np.int64]

    @property
    def drawn_ids(self) -> Ids:
        """Ids of the rows that are not scored."""
        return self.drawn[ID].astype(np.int64, copy=False)


def set_apart(
    batch: Batch, selector: Selector, *, window: Window, draws: Draws, weights_step: int
) -> Apart:
    """Part a pool into rows to score and rows to train unscored.

    Args:
        batch: The pool's rows; where rows were drawn before they were read, with the columns of
            `Preselection.columns`.
        selector: Whose `to_score` is asked about the rows that were not.
        window: The last scores before the pool, float32 [<= R] or counts.
        draws: Random numbers of the pool's epoch.
        weights_step: Of the weights with which the pool is scored: rows that are left out now
            are as young as if they were.
    """
    rows = num_rows(batch)
    ours = {
        PROBABILITY: batch.get(PROBABILITY, np.full(rows, np.nan, np.float32)).copy(),
        WEIGHT: batch.get(WEIGHT, np.ones(rows, np.float32)),
        LOSS: batch.get(LOSS, np.full(rows, np.nan, np.float32)),
        WEIGHTS_STEP: batch.get(WEIGHTS_STEP, np.zeros(rows, np.int64)).copy(),
    }
    positions = np.flatnonzero(np.isnan(ours[PROBABILITY].astype(np.float32, copy=False)))
    ids = batch[ID].astype(np.int64, copy=False)
    recent = window.recent if isinstance(window, CountedWindow) else window
    asked = selector.to_score(ids[positions], recent, draws)
    if asked is not None:
        left_out = np.delete(positions, asked)
        ours[PROBABILITY][left_out] = 1.0
        ours[WEIGHTS_STEP][left_out] = weights_step
        positions = positions[asked]
    others = np.delete(np.arange(rows), positions)
    plain = {name: column for name, column in batch.items() if name not in _OURS}
    return Apart(take(plain, positions), positions, take(plain | ours, others), others)


def put_together(
    apart: Apart, selected: Batch, chosen: npt.NDArray[np.int64], num_scored: int
) -> Batch:
    """Selected and drawn rows of a pool as one block, in the pool's order.

    Args:
        apart: The pool in two.
        selected: Rows selected among those that were scored.
        chosen: Which of the scored rows they are; a row may occur more than once.
        num_scored: Rows that the run has scored, this pool's among them.
    """
    positions = np.concatenate([apart.positions[chosen], apart.drawn_positions])
    known = {name: column for name, column in selected.items() if name in apart.drawn}
    block = concatenate([known, apart.drawn]) if num_rows(apart.drawn) else known
    block = take(block, np.argsort(positions, kind="stable"))
    return block | {NUM_SCORED: np.full(len(positions), num_scored, np.int64)}
