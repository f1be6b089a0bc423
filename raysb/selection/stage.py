"""One scored pool in, the rows worth a backward pass out."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.schema import (
    CORRECT,
    ID,
    LOSS,
    PROBABILITY,
    SCORE,
    WEIGHT,
    WEIGHTS_STEP,
    Batch,
    Floats,
    Ids,
    Selection,
    take,
)
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.distribution import LossDistribution, Window

Adjust: TypeAlias = Callable[[Selection, Ids, npt.NDArray[np.int64]], Selection]


class SelectedPool(NamedTuple):
    """What became of a pool. Produced by `select_pool`; consumed by training and history."""

    batch: Batch  # the k selected rows, with what scoring and selection know about them
    selected: npt.NDArray[np.bool_]  # [n] over the pool
    nonfinite_ids: Ids  # of the rows that were set aside
    rows: npt.NDArray[np.int64]  # [k] which rows of the pool were selected; one may occur twice


def select_pool(
    selector: Selector,
    batch: Batch,
    losses: Floats | None,
    *,
    correct: npt.NDArray[np.uint8] | None = None,
    scores: Floats | None = None,
    window: Window,
    draws: Draws,
    weights_step: int,
    adjust: Adjust | None = None,
    accuracy: float | None = None,
) -> SelectedPool:
    """Select rows of a pool.

    Rows whose loss or score is not finite are set aside: never selected, not even in warm-up
    epochs, and never ranked against.

    Args:
        selector: Chooses among the rows with finite scores.
        batch: The pool's n rows; `id` is among the columns.
        losses: float32 [n]; `None` for a selector that needs no scores.
        correct: uint8 [n] where the task has a right answer.
        scores: float32 [n], what is ranked; by default the losses.
        window: The scores of the run before this pool, in pool order, float32 [<=R] or counts.
        draws: Random numbers of the pool's epoch.
        weights_step: Optimizer steps behind the weights that scored the pool.
        adjust: Changes the selection among the rows with finite scores, given their ids and their
            positions in the pool.
        accuracy: Share of the rows that were predicted rightly in the last epoch that was scored
            whole, from 0 to 1; none: not known.

    Returns:
        The selected rows with `weights_step`, `probability`, `weight` and, where they are given,
        `loss`, `score` and `correct`; which rows these are; the ids set aside.

    Raises:
        ValueError: The selector needs losses and there are none, or not as many as rows.
    """
    ids = batch[ID].astype(np.int64, copy=False)
    if losses is None:
        if selector.needs_scores:
            raise ValueError(f"select_pool(losses=None): {selector} ranks losses; score the pool")
        finite = np.arange(len(ids))
        selection = selector.select(ids, None, None, draws)
    else:
        if len(losses) != len(ids):
            raise ValueError(f"select_pool: {len(losses)} losses for {len(ids)} rows")
        ranked = losses if scores is None else scores
        finite = np.flatnonzero(np.isfinite(losses) & np.isfinite(ranked))
        own = ranked[finite]
        merged = LossDistribution.merged(
            window, own, selector.history or len(own), accuracy=accuracy
        )
        selection = selector.select(ids[finite], own, merged, draws)
    if adjust is not None:
        selection = adjust(selection, ids[finite], finite)
    rows = finite[selection.indices]
    columns: Batch = {} if losses is None else {LOSS: losses[rows].astype(np.float32, copy=False)}
    columns |= {} if scores is None else {SCORE: scores[rows].astype(np.float32, copy=False)}
    columns |= {} if correct is None else {CORRECT: correct[rows].astype(np.uint8, copy=False)}
    columns[WEIGHTS_STEP] = np.full(len(rows), weights_step, np.int64)
    columns |= {PROBABILITY: selection.probability, WEIGHT: selection.weight}
    selected = np.zeros(len(ids), np.bool_)
    selected[rows] = True
    return SelectedPool(take(batch, rows) | columns, selected, np.delete(ids, finite), rows)
