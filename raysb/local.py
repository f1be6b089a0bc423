"""The whole pipeline in one process, without Ray: the oracle, the debugger's friend.

A pool is scored when the rows selected so far fill no further batch, with the weights of that
moment: the lockstep rule that `scoring.max_staleness_steps=0` gives on Ray. With W workers asked
for, one process trains the W workers' rows as one batch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from raysb.device import device_here
from raysb.errors import StreamOrderError
from raysb.history.table import LossTable
from raysb.interrupt import INTERRUPTED, STOPPING, Interrupted, stoppable
from raysb.job import TrainingJob
from raysb.report.directory import RunDirectory
from raysb.schema import ID, Batch, Floats, Ids, PoolScores, num_rows
from raysb.scoring.cursor import Cursor
from raysb.scoring.limits import limits_for
from raysb.scoring.records import Grant, Refusal
from raysb.seeding import key
from raysb.selection.preselection import Outlook
from raysb.source.plan import PoolPlan
from raysb.training.batch_stream import BatchStream
from raysb.training.evaluation import evaluate
from raysb.training.generators import rng_state, seed, set_rng_state
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop, with_scores
from raysb.training.parallel import devices_of
from raysb.training.reading import unscored_record
from raysb.training.schedule import Budget
from raysb.training.spec import StreamSpec
from raysb.training.strategies import check_engine


class LocalStream(BatchStream):
    """Selected rows, scored by the model that is trained.

    Args:
        spec: What is read, scored, selected and trained.
        device: Of the model.
        on_step: See `BatchStream`.
    """

    def __init__(
        self,
        spec: StreamSpec,
        *,
        device: torch.device | str = "cpu",
        on_step: Callable[[int, int, Batch], None] | None = None,
    ) -> None:
        super().__init__(
            spec,
            device=device,
            check_first_batch=False,  # scorer and worker are one model here
            on_step=on_step,
        )
        self.ledger = spec.ledger()
        self.history = LossTable(spec.source.num_rows if spec.has_history else 0)
        self._reading = spec.reading
        self._scoring = replace(spec.pool_scoring, publish_every=1)  # the live model's weights
        self._outlooks: dict[int, Outlook | None] = {}

    def _open(self, batch_size: int, epochs: int, model: nn.Module | None) -> PoolPlan:
        plan = self.spec.plan(batch_size, epochs)
        limits = limits_for(
            0,
            pool_rows=plan.pool_rows,
            batch_size=batch_size,
            num_workers=1,
            num_actors=1,
        )
        if model is None and self.spec.scored:
            raise ValueError(
                "iter_batches(model=None): the local engine scores with the model that is "
                "trained; pass model=... (the Ray engine's scorers build their own)"
            )
        self._model = model
        self._generation = self.ledger.open(limits, self.cursor, plan.num_pools, self.num_steps)
        self._consumed_before = self.num_backpropped
        return plan

    def _blocks(self) -> Iterator[Batch]:
        plan = self._plan()
        for pool in range(self.cursor.low, plan.num_pools):
            if pool in self.cursor.waiting:
                waiting, outlook = self.cursor.waiting[pool], self._outlook(plan.epoch_of(pool))
                yield self._reading.read_waiting(plan, pool, waiting, outlook)
            elif pool not in self.cursor.done:
                yield self.rows_of(plan, pool)

    def rows_of(self, plan: PoolPlan, pool: int) -> Batch:
        """The rows of a pool that are to be trained."""
        epoch, start, stop = plan.locate(pool)
        batch = self._reading.read_wanted(plan, pool, self._outlook(epoch))
        grant = self.ledger.grant(self._generation, pool, num_rows(batch))
        if isinstance(grant, Refusal):
            self.ledger.raise_failure()
            raise RuntimeError(f"pool {pool} was refused in lockstep: {grant}")
        if self.spec.scored and num_rows(batch):
            return self._score(batch, grant, epoch, stop - start)
        if self.spec.has_history:
            self.history.record_selected(_ids(batch), epoch)
        self.ledger.scored(self._generation, unscored_record(plan, pool, num_rows(batch)))
        return batch

    def _outlook(self, epoch: int) -> Outlook | None:
        """What the selector looks back at in an epoch, as it was when the epoch began."""
        selector = self.spec.selector
        if selector.looks_back and epoch not in self._outlooks:
            seen = selector.outlook(self.history.records(), epoch, self._plan().epochs)
            # rows of small epochs wait until there are enough for a batch, and may be saved
            self._outlooks = {e: o for e, o in self._outlooks.items() if e >= self.epoch}
            self._outlooks[epoch] = seen
        return self._outlooks.get(epoch)

    def _score(self, batch: Batch, grant: Grant, epoch: int, pool_rows: int) -> Batch:
        if self._model is None:
            raise StreamOrderError("there is no model to score with: iterate over iter_batches()")
        scored = self._scoring(
            self._model,
            batch,
            window=grant.window,
            weights_step=grant.weights_step,
            epoch=epoch,
            pool_rows=pool_rows,
            num_scored=grant.num_scored,
            fallen_back=grant.fallen_back,
            times_selected=self._scoring.times_selected(self.history, batch, epoch),
            accuracy=grant.accuracy,
        )
        self._record(scored.scores)
        self.history.record_selected(scored.drawn, epoch)
        self.ledger.scored(self._generation, scored.record)
        self.ledger.raise_failure()
        return scored.rows

    def _record(self, scores: PoolScores) -> None:
        self.history.record(
            scores.ids,
            scores.losses,
            correct=scores.correct,
            selected=scores.selected,
            weights_step=scores.weights_step,
            epoch=scores.epoch,
        )

    def _record_backward(self, ids: Ids, losses: Floats) -> None:
        self.history.record_backward(ids, losses, self.num_steps)

    def _publish(self, model: nn.Module) -> None:
        consumed = self.num_backpropped - self._consumed_before
        self.ledger.stepped(self._generation, self.num_steps, consumed, oldest=self.oldest)

    def _close(self) -> None:
        self.ledger.close(self._generation)

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """Sums over the run; see `Ledger.progress`."""
        return self.ledger.progress(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Cursor, counters, sums and history."""
        self.ledger.forget(self.oldest)
        return {
            "cursor": self.ledger.cursor(self.all_trained()).state_dict(),
            "counters": self.counters(),
            "ledger": self.ledger.state_dict(),
            "outlooks": self.outlook_states(),
            "history": self.history.state_dict(),
        }

    def outlook_states(self) -> dict[str, Any]:
        """What the selector looks back at in the epochs under way."""
        return {
            str(epoch): None if outlook is None else outlook.state_dict()
            for epoch, outlook in self._outlooks.items()
        }

    def load_outlooks(self, states: Mapping[str, Any]) -> None:
        """Take over what `outlook_states` gave."""
        self._outlooks = {
            int(epoch): None if kept is None else Outlook.from_state(kept)
            for epoch, kept in states.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.cursor = Cursor.from_state(state["cursor"])
        self.load_counters(state["counters"])
        self.ledger.load_state_dict(state["ledger"])
        if state["history"] is not None:
            self.history.load_state_dict(state["history"])
        self.load_outlooks(state["outlooks"])


def _ids(batch: Batch) -> Ids:
    return batch[ID].astype(np.int64, copy=False)


@dataclass(frozen=True)
class LocalResult:
    """What a run leaves, with the fields of `ray.train.Result` that apply."""

    metrics: dict[str, Any]
    path: str


def fit_locally(job: TrainingJob) -> LocalResult:
    """Train in this process.

    Raises:
        Interrupted: Ctrl-C or SIGTERM asked it to stop; everything is written.
    """
    training = job.training
    check_engine(training, "local")
    device = device_here(training.use_gpu)
    directory = job.directory or RunDirectory.claim(None, model="local").create().path
    if training.num_threads:
        torch.set_num_threads(training.num_threads)
    model = job.spec.task.build(job.spec.seed)
    seed(key(job.spec.seed, "training", 0))  # of dropout, as on Ray
    audit = job.audit(directory)
    stream = LocalStream(job.spec, device=device, on_step=audit)
    learner = Learner.build(job.spec.task, model, training, devices_of(device), job.optimizer)
    recorder = job.recorder(directory)
    checkpoints = job.checkpoints(directory)

    def save(metrics: Mapping[str, Any], score: float | None) -> None:
        state = stream.state_dict()
        checkpoints.save(
            stream.num_steps,
            score=score,
            model=model,
            learner={
                **learner.state_dict(),
                **learner.statistics(stream),
                "rngs": [rng_state()],
            },
            history=state.pop("history"),
            stream={**state, "loop": loop.state_dict()},
        )

    def record(line: dict[str, Any]) -> None:
        if line["kind"] in ("start", "resume"):
            job.watcher.phase("first batch")
        recorder(with_scores(line, stream.progress(line["epoch"])))

    hooks = Hooks(save=save, record=record)
    if job.held_out is not None:
        hooks.evaluate = partial(
            evaluate,
            job.spec.task,
            learner.judged(),
            job.held_out,
            stream.exchange,
            batch_size=job.evaluation.batch_size,
        )
    batch_size = training.batch_size * training.max_workers
    loop = Loop(
        learner,
        stream,
        replace(training, batch_size=batch_size),
        job.evaluation,
        Budget(training=training, rows_per_epoch=job.spec.source.num_rows),
        hooks,
    )
    if (newest := checkpoints.newest()) is not None:
        restored = checkpoints.load(newest, model)
        learner.load_state_dict(restored["learner"])
        set_rng_state(restored["learner"]["rngs"][0])
        stream.load_state_dict({**restored["stream"], "history": restored["history"]})
        loop.load_state_dict(restored["stream"]["loop"])
    if audit is not None:
        audit.forget_after(stream.num_steps)
    try:
        with stoppable(partial(job.watcher.phase, STOPPING)) as hooks.stop:
            metrics = loop.run()
    except BaseException:
        recorder.finish(stream.ledger.totals.nonfinite, None)  # an error may name the list
        raise
    recorder.finish(stream.ledger.totals.nonfinite, checkpoints)
    if metrics["stopped_by"] == INTERRUPTED:
        raise Interrupted(metrics)
    return LocalResult(metrics, str(directory))
