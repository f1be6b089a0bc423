"""Scoring and selecting a pool: what a scorer actor does, and the local engine in its own process.

Selection happens where the losses are made: rows not worth a backward pass never travel.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import nn

from raysb.history.records import LossRecords
from raysb.schema import (
    ID,
    POOL,
    STREAM_COLUMNS,
    Batch,
    Ids,
    PoolScores,
    Selection,
    num_rows,
    take,
)
from raysb.scoring.agreement import AUDIT_EVERY, AUDIT_ROWS, RankAgreement
from raysb.scoring.forward import Scores, score
from raysb.scoring.proxy import Proxy
from raysb.scoring.records import Grant, PoolRecord
from raysb.scoring.scores import Score
from raysb.seeding import Draws
from raysb.selection.adjustments import UNCHANGED, Adjustments
from raysb.selection.base import Selector
from raysb.selection.distribution import Window
from raysb.selection.stage import Adjust, select_pool
from raysb.selection.unscored import put_together, set_apart
from raysb.task import Task

_NO_IDS = np.empty(0, np.int64)
_NO_LOSSES = np.empty(0, np.float32)
_NOTHING = Scores(_NO_LOSSES, None, {}, _NO_LOSSES)  # of no rows


class Gate(Protocol):
    """The part of the ledger that scoring needs."""

    def grant(self, generation: int, pool: int, num_rows: int) -> Grant | None:
        """Wait for leave to score a pool; `None` when the run is over."""

    def scored(self, generation: int, record: PoolRecord) -> None:
        """Report a pool."""


class Known(Protocol):
    """Who can be asked what is known of some samples."""

    def lookup(self, ids: Ids) -> LossRecords:
        """What is known of some samples."""


class Records(Known, Protocol):
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


@dataclass(frozen=True, kw_only=True)
class PoolScoring:
    """How a pool is scored and selected from: all that does not change during a run.

    Args:
        task: How the batch reaches the model, and the loss.
        selector: Chooses by score.
        seed: The run's seed.
        by: What is ranked.
        dtype: Of the forward pass.
        image_scale: Share of their height and width at which pictures are scored.
        proxy: Scores in place of the model that is trained.
        adjustments: Of what the selector chooses.
        classes: Column with the classes that a class floor looks at.
        audit_every: Pools from one whose cheap scores are compared with the live model's to the
            next.
        publish_every: Optimizer steps between two publications of the weights.
    """

    task: Task
    selector: Selector
    seed: int
    by: Score | None = None
    dtype: str = "float32"
    image_scale: float = 1.0
    proxy: Proxy | None = None
    adjustments: Adjustments = UNCHANGED
    classes: str | None = None
    audit_every: int = AUDIT_EVERY
    publish_every: int = 1

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        window: Window,
        weights_step: int,
        epoch: int,
        pool_rows: int | None = None,
        num_scored: int = 0,
        fallen_back: bool = False,
        times_selected: npt.NDArray[np.integer] | None = None,
        agreement: RankAgreement | None = None,
        accuracy: float | None = None,
    ) -> ScoredPool:
        """Score n rows and select among them; pure but for the clock.

        Args:
            model: With the weights of `weights_step`.
            batch: The pool's rows, with `id` and `pool`.
            window: The last scores in pool order, [<= R] or counts.
            weights_step: Optimizer steps behind the model's weights.
            epoch: Epoch of the pool, which keys the draws.
            pool_rows: Rows of the pool, those that were not read among them; by default n.
            num_scored: Rows that the run has scored before.
            fallen_back: Score with `model`, in full precision and size, whatever is set.
            times_selected: int [n], how often each row was selected, where there is a cap.
            agreement: Of the weights before these with these, where that was asked.
            accuracy: Of the last epoch that was scored whole, as `LossDistribution` has it.
        """
        start = time.perf_counter()
        draws = Draws(seed=self.seed, epoch=epoch)
        apart = None
        if self.selector.trains_unscored:
            apart = set_apart(
                batch, self.selector, window=window, draws=draws, weights_step=weights_step
            )
        fresh = batch if apart is None else apart.fresh
        cheap = self.is_cheap and not fallen_back
        scores = self.score_cheaply(model, fresh) if cheap else self._score(model, fresh)
        ranked = scores.ranked
        chosen = select_pool(
            self.selector,
            {**fresh, **scores.extra},
            scores.losses,
            correct=scores.correct,
            scores=ranked,
            window=window,
            draws=draws,
            weights_step=weights_step,
            adjust=self._adjust(fresh, times_selected, draws),
            accuracy=accuracy,
        )
        ids = fresh[ID].astype(np.int64, copy=False)
        rows, drawn = chosen.batch, _NO_IDS
        if apart is not None:
            rows = put_together(apart, rows, chosen.rows, num_scored + len(ids))
            drawn = apart.drawn_ids
        # what the source gives and a preselection does not add is read again where it is needed
        plain = batch.keys() - STREAM_COLUMNS
        pool = int(batch[POOL][0])
        if cheap and not self.is_stale and pool % self.audit_every == 0:
            agreement = self.audit(model, fresh, scores)
        finite = np.isfinite(scores.losses) & np.isfinite(scores.scores)
        record = PoolRecord(
            pool=pool,
            epoch=epoch,
            num_rows=pool_rows or num_rows(batch),
            num_selected=num_rows(rows),
            losses=scores.losses[finite],
            num_correct=None if scores.correct is None else int(scores.correct.sum()),
            nonfinite=chosen.nonfinite_ids,
            seconds=time.perf_counter() - start,
            scores=None if ranked is None else ranked[finite],
            rows={k: v for k, v in rows.items() if k == ID or k not in plain},
            fallen_back=fallen_back,
            agreement=agreement,
        )
        told = PoolScores(
            pool, epoch, weights_step, ids, scores.losses, scores.correct, chosen.selected
        )
        return ScoredPool(rows, told, drawn, record)

    def times_selected(
        self, history: Known, batch: Batch, epoch: int
    ) -> npt.NDArray[np.integer] | None:
        """How often each row of a pool was selected before its epoch, where there is a cap."""
        if not self.adjustments.needs_times_selected:
            return None
        known = history.lookup(batch[ID].astype(np.int64, copy=False))
        return known.times_selected_before(epoch)

    @property
    def is_cheap(self) -> bool:
        """Whether something stands in for the live model in full precision and size."""
        return self.proxy is not None or self.dtype != "float32" or self.image_scale != 1

    @property
    def is_stale(self) -> bool:
        """Whether a copy of the live model scores that stays behind it for some steps."""
        return self.proxy is None and self.publish_every > 1

    def _score(self, model: nn.Module, rows: Batch) -> Scores:
        return score(self.task, model, rows, by=self.by) if num_rows(rows) else _NOTHING

    def score_cheaply(self, model: nn.Module, rows: Batch) -> Scores:
        """Score rows as the settings say, by the proxy where there is one."""
        if not num_rows(rows):
            return _NOTHING
        task = self.task
        if self.proxy is not None:
            task, model = self.proxy.task(task), self.proxy.beside(model)
        return score(task, model, rows, dtype=self.dtype, by=self.by, image_scale=self.image_scale)

    def audit(self, model: nn.Module, rows: Batch, scores: Scores) -> RankAgreement | None:
        """How the first rows rank by the live model; rows of a pool are in random order.

        Args:
            model: With the live weights.
            rows: Of a pool.
            scores: Of these rows, or of the first of them.
        """
        live = self._score(model, take(rows, slice(0, AUDIT_ROWS))).scores
        return RankAgreement.of(scores.scores[: len(live)], live)

    def _adjust(
        self, rows: Batch, times_selected: npt.NDArray[np.integer] | None, draws: Draws
    ) -> Adjust | None:
        """What becomes of a selection among some of the rows; `None` where nothing does."""
        if self.adjustments == UNCHANGED:
            return None
        classes = None if self.classes is None else rows[self.classes]

        def adjust(selection: Selection, ids: Ids, among: npt.NDArray[np.int64]) -> Selection:
            return self.adjustments.apply(
                selection,
                ids,
                classes=None if classes is None else classes[among].astype(np.int64, copy=False),
                times_selected=None if times_selected is None else times_selected[among],
                draws=draws,
            )

        return adjust


class Scorer:
    """A scorer actor of Ray Data: waits for its turn, takes the weights, scores, selects, reports.

    Args:
        scoring: How pools are scored and selected from.
        gate: The ledger.
        history: What is known per sample.
        fetcher: `(model) -> fetch`, where `fetch(weights)` brings the model to the weights that a
            grant carries and returns their step.
        locate: Epoch of a pool and its rows [start, stop), as `PoolPlan.locate`.
        generation: Of the worker group that this scorer serves.
        device: Of the model.
    """

    def __init__(
        self,
        scoring: PoolScoring,
        gate: Gate,
        history: Records,
        fetcher: Callable[[nn.Module], Callable[[Any], int]],
        locate: Callable[[int], tuple[int, int, int]],
        *,
        generation: int,
        device: str = "cpu",
    ) -> None:
        self._scoring = scoring
        self._gate = gate
        self._history = history
        self._locate = locate
        self._generation = generation
        self._model = scoring.task.build(scoring.seed).to(device)
        self._fetch = fetcher(self._model)
        self._weights_step = 0
        self._next_audit = 0  # the first pool of it
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
            agreement = self._take_weights(batch, grant)
            scored = self._scoring(
                self._model,
                batch,
                window=grant.window,
                weights_step=self._weights_step,
                epoch=epoch,
                pool_rows=stop - start,
                num_scored=grant.num_scored,
                fallen_back=grant.fallen_back,
                times_selected=self._scoring.times_selected(self._history, batch, epoch),
                agreement=agreement,
                accuracy=grant.accuracy,
            )
            self._history.record(scored.scores)
            if len(scored.drawn):
                self._history.record_selected(scored.drawn, epoch)
        # a checkpoint, or an epoch that looks back, finds in the history what the ledger counts
        self._history.flush()
        self._gate.scored(self._generation, scored.record)
        return scored.rows

    def _take_weights(self, batch: Batch, grant: Grant) -> RankAgreement | None:
        """Bring the model to the grant's weights; of a stale copy now and then, what age costs.

        It is audited on rows that it has not scored yet, at the end of its time: by the weights
        that replace it. Weights that were just drawn rank nothing, and are not.
        """
        pool, before = int(batch[POOL][0]), self._weights_step
        due = self._scoring.is_stale and not grant.fallen_back and pool >= self._next_audit
        old = None
        if due and 0 < before < grant.weights_step:
            rows = take(batch, slice(0, AUDIT_ROWS))
            old = self._scoring.score_cheaply(self._model, rows)
            self._next_audit = pool + self._scoring.audit_every
        self._weights_step = self._fetch(grant.weights)
        return None if old is None else self._scoring.audit(self._model, rows, old)
