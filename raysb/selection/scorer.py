"""Scoring and selecting a pool: what a scorer actor does, and the local engine in its own process.

Selection happens where the losses are made: rows not worth a backward pass never travel.
"""

import time
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from raysb.schema import ID, POOL, Batch, Floats, Ids, PoolScores, num_rows
from raysb.scoring.forward import Scores, score
from raysb.scoring.ledger import Grant, PoolRecord
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.stage import select_pool
from raysb.selection.unscored import put_together, set_apart
from raysb.task import Task

_NO_IDS = np.empty(0, np.int64)
_NOTHING = Scores(np.empty(0, np.float32), None, {})  # of no rows


class Gate(Protocol):
    """The part of the ledger that scoring needs."""

    def grant(self, generation: int, pool: int, num_rows: int) -> Grant | None:
        """Wait for leave to score a pool; `None` when the run is over."""

    def scored(self, generation: int, record: PoolRecord) -> None:
        """Report a pool."""


class Records(Protocol):
    """The part of the loss history that scoring needs."""

    def record(self, scores: PoolScores) -> None:
        """Note what is known per sample."""

    def record_selected(self, ids: Ids, epoch: int) -> None:
        """Note what was selected without being scored."""

    def flush(self) -> None:
        """Wait until all is noted."""


class ScoredPool(NamedTuple):
    """A pool's selected rows, and what is to be told of the whole pool."""

    rows: Batch
    scores: PoolScores  # of the rows that were scored
    drawn: Ids  # of those selected without
    record: PoolRecord


def score_pool(
    task: Task,
    model: nn.Module,
    selector: Selector,
    batch: Batch,
    *,
    window: Floats,
    weights_step: int,
    epoch: int,
    seed: int,
    dtype: str = "float32",
    pool_rows: int | None = None,
    num_scored: int = 0,
) -> ScoredPool:
    """Score n rows and select among them; pure but for the clock.

    Args:
        task: How the batch reaches the model, and the loss.
        model: With the weights of `weights_step`.
        selector: Chooses by score.
        batch: The pool's rows, with `id` and `pool`.
        window: The last losses in pool order, [<= R].
        weights_step: Optimizer steps behind the model's weights.
        epoch: Epoch of the pool, which keys the draws.
        seed: The run's seed.
        dtype: Of the forward pass.
        pool_rows: Rows of the pool, those that were not read among them; by default n.
        num_scored: Rows that the run has scored before.
    """
    start = time.perf_counter()
    draws = Draws(seed=seed, epoch=epoch)
    apart = None
    if selector.trains_unscored:
        apart = set_apart(batch, selector, window=window, draws=draws, weights_step=weights_step)
    fresh = batch if apart is None else apart.fresh
    scores = score(task, model, fresh, dtype=dtype) if num_rows(fresh) else _NOTHING
    chosen = select_pool(
        selector,
        {**fresh, **scores.extra},
        scores.losses,
        correct=scores.correct,
        window=window,
        draws=draws,
        weights_step=weights_step,
    )
    pool = int(batch[POOL][0])
    ids = fresh[ID].astype(np.int64, copy=False)
    rows, drawn = chosen.batch, _NO_IDS
    if apart is not None:
        rows = put_together(apart, rows, chosen.rows, num_scored + len(ids))
        drawn = apart.drawn_ids
    record = PoolRecord(
        pool=pool,
        epoch=epoch,
        num_rows=pool_rows or num_rows(batch),
        num_selected=num_rows(rows),
        losses=scores.losses[np.isfinite(scores.losses)],
        num_correct=None if scores.correct is None else int(scores.correct.sum()),
        nonfinite=chosen.nonfinite_ids,
        seconds=time.perf_counter() - start,
    )
    told = PoolScores(
        pool, epoch, weights_step, ids, scores.losses, scores.correct, chosen.selected
    )
    return ScoredPool(rows, told, drawn, record)


class Scorer:
    """A scorer actor of Ray Data: waits for its turn, takes the weights, scores, selects, reports.

    Args:
        task: How the batch reaches the model, and the loss.
        selector: Chooses by score.
        gate: The ledger.
        history: What is known per sample.
        fetcher: `(model) -> fetch`, where `fetch(weights)` brings the model to the weights that a
            grant carries and returns their step.
        locate: Epoch of a pool and its rows [start, stop), as `PoolPlan.locate`.
        generation: Of the worker group that this scorer serves.
        seed: The run's seed.
        dtype: Of the forward pass.
        device: Of the model.
    """

    def __init__(
        self,
        task: Task,
        selector: Selector,
        gate: Gate,
        history: Records,
        fetcher: Callable[[nn.Module], Callable[[Any], int]],
        locate: Callable[[int], tuple[int, int, int]],
        *,
        generation: int,
        seed: int,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        self._task = task
        self._selector = selector
        self._gate = gate
        self._history = history
        self._locate = locate
        self._generation = generation
        self._seed = seed
        self._dtype = dtype
        self._model = task.build(seed).to(device)
        self._fetch = fetcher(self._model)
        self._one_at_a_time = Lock()  # pools of one actor wait side by side, and are scored in turn

    def __call__(self, batch: Batch) -> Batch:
        """Return the selected rows of a pool; none when there is nothing to score any more."""
        rows = num_rows(batch)
        if rows == 0:
            return batch
        grant = self.ask(int(batch[POOL][0]), rows)
        if grant is None:
            return {name: column[:0] for name, column in batch.items()}
        return self.score(batch, grant)

    def ask(self, pool: int, rows: int) -> Grant | None:
        """Wait for leave to score a pool of so many rows; `None` when the run is over."""
        return self._gate.grant(self._generation, pool, rows)

    def score(self, batch: Batch, grant: Grant) -> Batch:
        """Score a pool that was granted; returns its selected rows."""
        epoch, start, stop = self._locate(int(batch[POOL][0]))
        with self._one_at_a_time:
            scored = score_pool(
                self._task,
                self._model,
                self._selector,
                batch,
                window=grant.window,
                weights_step=self._fetch(grant.weights),
                epoch=epoch,
                seed=self._seed,
                dtype=self._dtype,
                pool_rows=stop - start,
                num_scored=grant.num_scored,
            )
            self._history.record(scored.scores)
            if len(scored.drawn):
                self._history.record_selected(scored.drawn, epoch)
            if self._selector.looks_back:
                self._history.flush()  # before the ledger lets the next epoch look back
        self._gate.scored(self._generation, scored.record)
        return scored.rows
