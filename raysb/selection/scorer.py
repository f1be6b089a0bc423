"""Scoring and selecting a pool: what a scorer actor does, and the local engine in its own process.

Selection happens where the losses are made: rows not worth a backward pass never travel.
"""

import time
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from raysb.schema import ID, POOL, Batch, Floats, PoolScores, num_rows
from raysb.scoring.forward import score
from raysb.scoring.ledger import Grant, PoolRecord
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.stage import select_pool
from raysb.task import Task


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


class ScoredPool(NamedTuple):
    """A pool's selected rows, and what is to be told of the whole pool."""

    rows: Batch
    scores: PoolScores
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
    """
    start = time.perf_counter()
    scores = score(task, model, batch, dtype=dtype)
    rows, selected, nonfinite = select_pool(
        selector,
        {**batch, **scores.extra},
        scores.losses,
        correct=scores.correct,
        window=window,
        draws=Draws(seed=seed, epoch=epoch),
        weights_step=weights_step,
    )
    finite = np.isfinite(scores.losses)
    pool = int(batch[POOL][0])
    ids = batch[ID].astype(np.int64, copy=False)
    record = PoolRecord(
        pool=pool,
        epoch=epoch,
        num_rows=len(ids),
        num_selected=int(selected.sum()),
        losses=scores.losses[finite],
        num_correct=None if scores.correct is None else int(scores.correct.sum()),
        nonfinite=nonfinite,
        seconds=time.perf_counter() - start,
    )
    told = PoolScores(pool, epoch, weights_step, ids, scores.losses, scores.correct, selected)
    return ScoredPool(rows, told, record)


class Scorer:
    """A scorer actor of Ray Data: waits for its turn, takes the weights, scores, selects, reports.

    Args:
        task: How the batch reaches the model, and the loss.
        selector: Chooses by score.
        gate: The ledger.
        history: What is known per sample.
        fetcher: `(model) -> fetch`, where `fetch(weights)` brings the model to the weights that a
            grant carries and returns their step.
        epoch_of: Epoch of a pool.
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
        epoch_of: Callable[[int], int],
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
        self._epoch_of = epoch_of
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
        pool = int(batch[POOL][0])
        with self._one_at_a_time:
            scored = score_pool(
                self._task,
                self._model,
                self._selector,
                batch,
                window=grant.window,
                weights_step=self._fetch(grant.weights),
                epoch=self._epoch_of(pool),
                seed=self._seed,
                dtype=self._dtype,
            )
            self._history.record(scored.scores)
        self._gate.scored(self._generation, scored.record)
        return scored.rows
