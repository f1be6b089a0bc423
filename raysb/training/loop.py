"""The training loop: the same for the local engine and for every Ray Train worker.

What happens when - evaluations, checkpoints, the end - follows from numbers that all workers share,
so all do it at the same step.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysb.interrupt import INTERRUPTED
from raysb.training.batch_stream import BatchStream
from raysb.training.gpu import gpu_metrics
from raysb.training.learner import Learner
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training

LINE_EVERY_S = 1.0  # between two `train` lines of metrics.jsonl


@dataclass(kw_only=True)
class Hooks:
    """What the loop calls; each may block, and all workers call the collective ones together.

    Args:
        evaluate: `() -> metrics` on the rows held out, collective; `None` without such rows.
        save: `(metrics) -> None`, writes a checkpoint, collective.
        record: `(line) -> None`, called by worker 0 only.
        stop: `() -> bool`, asked by worker 0 before each step: whether somebody asked the run to
            end. It is saved then, and not evaluated once more.
    """

    evaluate: Callable[[], dict[str, float]] | None = None
    save: Callable[[Mapping[str, Any]], None] = field(default=lambda metrics: None)
    record: Callable[[dict[str, Any]], None] = field(default=lambda line: None)
    stop: Callable[[], bool] = field(default=lambda: False)


class Loop:
    """Trains until the epochs, or one of the limits of the settings, are reached.

    Args:
        learner: Model and optimizer.
        stream: Where rows come from.
        training: Epochs, batch size, schedule, limits.
        evaluation: How often to evaluate.
        budget: Progress of the schedule, and cost.
        hooks: What to call when.
        seconds_before: Time that the run had taken when the stream's state was saved.
    """

    def __init__(
        self,
        learner: Learner,
        stream: BatchStream,
        training: Training,
        evaluation: Evaluation,
        budget: Budget,
        hooks: Hooks,
        *,
        seconds_before: float = 0.0,
    ) -> None:
        self._learner = learner
        self._stream = stream
        self._training = training
        self._evaluation = evaluation
        self._budget = budget
        self._hooks = hooks
        self._last_line = time.monotonic()
        self._start = self._last_line - seconds_before
        self._evaluated_at = -1
        self._last: dict[str, Any] = {}
        self._stopped_by: str | None = None

    def run(self) -> dict[str, Any]:
        """Train; returns the last line of metrics."""
        training, stream = self._training, self._stream
        # the epoch to resume in: earlier ones were evaluated before the checkpoint
        epoch = stream.spec.plan(training.batch_size, training.epochs).epoch_of(stream.cursor.low)
        batches = stream.iter_batches(
            batch_size=training.batch_size,
            epochs=training.epochs,
            model=self._learner.model,
            max_steps=training.max_steps,
            max_backprops=training.max_backprops,
            stop=self._must_stop,
        )
        for batch in batches:
            if stream.num_steps == 0:
                self._record("start")
            epoch = self._end_epochs(epoch)
            self._learner.step(stream, batch, self._lr_factor())
            self._after_step()
        if not self._interrupted():
            self._end_epochs(epoch)
            if self._evaluated_at != stream.num_steps:
                self._evaluate("eval")
        reason = {"stopped_by": self._reason()}
        self._last |= self._line("end", reason)  # of the very step that is saved
        self._hooks.save(self._last)
        self._record("end", reason)
        return self._last

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with that before a restart."""
        return time.monotonic() - self._start

    def _spent(self) -> dict[str, int]:
        stream = self._stream
        return {"num_scored": stream.num_scored, "num_backpropped": stream.num_backpropped}

    def _lr_factor(self) -> float:
        stream = self._stream
        progress = self._budget.progress(
            epochs=stream.fraction * self._training.epochs, step=stream.num_steps, **self._spent()
        )
        return self._budget.factor(progress)

    def _must_stop(self) -> bool:
        """Asked on worker 0, before each step; remembers why."""
        limit_s, limit_cost = self._training.max_time_s, self._training.max_cost
        if self._hooks.stop():
            self._stopped_by = INTERRUPTED
        elif limit_s is not None and self.seconds >= limit_s:
            self._stopped_by = f"train.max_time_s={limit_s:g}"
        elif limit_cost is not None and self._budget.cost(**self._spent()) >= limit_cost:
            self._stopped_by = f"train.max_cost={limit_cost:g}"
        return self._stopped_by is not None

    def _reason(self) -> str | None:
        """On worker 0, what ended the run before its epochs were over; else `None`."""
        stream = self._stream
        if stream.fraction == 1.0:
            return None
        for name, done in (
            ("max_steps", stream.num_steps),
            ("max_backprops", stream.num_backpropped),
        ):
            limit = getattr(self._training, name)
            if limit is not None and done >= limit:
                return f"train.{name}={limit}"
        return self._stopped_by

    def _interrupted(self) -> bool:
        """Whether worker 0 was asked to stop; the other workers learn it here. Collective."""
        mine = np.array([self._reason() == INTERRUPTED], np.float64)
        return bool(self._stream.exchange.sum(mine)[0])

    def _end_epochs(self, epoch: int) -> int:
        """Evaluate once for each epoch that every worker has left behind."""
        while epoch < self._stream.epoch:
            if self._evaluation.every == 0:
                self._evaluate("epoch", epoch)
            epoch += 1
        return epoch

    def _after_step(self) -> None:
        step, every = self._stream.num_steps, self._evaluation.every
        if every and step % every == 0:
            self._evaluate("eval")
        save_every = self._training.checkpoint_every
        if save_every and step % save_every == 0:
            self._hooks.save(self._last)
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._record("train")

    def _evaluate(self, kind: str, epoch: int | None = None) -> None:
        """One line with the loss of the rows trained since the last, and of those held out."""
        start = time.monotonic()
        loss, rows = self._stream.exchange.sum(np.array(self._stream.take_train_loss(), np.float64))
        metrics: dict[str, Any] = {"train/loss": float(loss / rows)} if rows else {}
        if self._hooks.evaluate is not None:
            metrics |= self._hooks.evaluate()
            metrics["eval/seconds"] = time.monotonic() - start
        if epoch is not None:
            metrics["epoch"] = epoch
        self._evaluated_at = self._stream.num_steps
        self._last |= metrics
        self._record(kind, metrics)

    def _record(self, kind: str, metrics: Mapping[str, Any] | None = None) -> None:
        self._last_line = time.monotonic()
        line = self._line(kind, metrics)
        self._last |= line
        if self._stream.exchange.rank == 0:
            self._hooks.record(line)

    def _line(self, kind: str, metrics: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stream = self._stream
        return {
            "kind": kind,
            "step": stream.num_steps,
            "epoch": min(stream.epoch, self._training.epochs - 1),
            "fraction": stream.fraction,
            "num_scored": stream.num_scored,
            "num_backpropped": stream.num_backpropped,
            "cost": self._budget.cost(**self._spent()),
            "wall_time_s": self.seconds,
            "wait_s": stream.wait_seconds,
            "max_age_steps": stream.max_age,
            "mean_age_steps": stream.mean_age(),
            **gpu_metrics(stream.device),
            **(self._learner.state_bytes() if kind in ("start", "end") else {}),
            **(metrics or {}),
        }


def with_scores(line: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the ledger knows: means over every row scored, which selection does not bias.

    Of the line's own epoch when it ends one; else of the newest epoch that is being scored.
    """
    epochs = progress["epochs"]
    epoch = line["epoch"] if line["kind"] == "epoch" else max(epochs, default=None)
    sums = epochs.get(epoch)
    if sums is None or not (sums["num_scored"] or sums["num_selected"] < sums["num_offered"]):
        return dict(line)
    metrics = {
        "select/kept_fraction": sums["num_selected"] / sums["num_offered"],
        "select/scored_fraction": sums["num_scored"] / sums["num_offered"],
        "select/waiting_rows": progress["waiting_rows"],
    }
    if not sums["num_scored"]:
        return {**line, **metrics}
    finite = sums["num_scored"] - sums["num_nonfinite"]
    metrics |= {
        "score/loss": sums["loss_sum"] / max(finite, 1),
        "score/seconds": sums["score_seconds"],
        "score/nonfinite": sums["num_nonfinite"],
    }
    if sums["num_judged"]:
        metrics["score/error"] = 1.0 - sums["num_correct"] / sums["num_judged"]
    return {**line, **metrics}
