"""The training loop: the same for the local engine and for every Ray Train worker.

What happens when - evaluations, checkpoints, the end - follows from numbers that all workers share,
so all do it at the same step.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysb.errors import RunDirectoryError
from raysb.interrupt import INTERRUPTED
from raysb.training.batch_stream import BatchStream
from raysb.training.gpu import gpu_metrics
from raysb.training.learner import Learner
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training
from raysb.training.stopping import EarlyStopping

LINE_EVERY_S = 1.0  # between two `train` lines of metrics.jsonl


@dataclass(kw_only=True)
class Hooks:
    """What the loop calls; each may block, and all workers call the collective ones together.

    Args:
        evaluate: `() -> metrics` on the rows held out, collective; `None` without such rows.
        save: `(metrics, score) -> None`, writes a checkpoint, collective; `score` is what was
            evaluated at this very step, less is better, or `None`.
        record: `(line) -> None`, called by worker 0 only.
        stop: `() -> bool`, asked by worker 0 before each step: whether somebody asked the run to
            end. It is saved then, and not evaluated once more.
    """

    evaluate: Callable[[], dict[str, float]] | None = None
    save: Callable[[Mapping[str, Any], float | None], None] = field(
        default=lambda metrics, score: None
    )
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
    """

    def __init__(
        self,
        learner: Learner,
        stream: BatchStream,
        training: Training,
        evaluation: Evaluation,
        budget: Budget,
        hooks: Hooks,
    ) -> None:
        self._learner = learner
        self._stream = stream
        self._training = training
        self._evaluation = evaluation
        self._budget = budget
        self._hooks = hooks
        self._last_line = time.monotonic()
        self._start = self._last_save = self._last_line
        self._epoch = 0  # the oldest that was not evaluated at its end
        self._evaluated_at = -1
        self._num_lines = 0
        self._last: dict[str, Any] = {}
        self._opening: str | None = "start"  # kind of the first line, until it is written
        self._stopped_by: str | None = None
        self._stopping = EarlyStopping(training.patience)
        self._best_at: int | None = None  # step of a best evaluation that is to be saved

    def run(self) -> dict[str, Any]:
        """Train; returns the last line of metrics."""
        training, stream = self._training, self._stream
        batches = stream.iter_batches(
            batch_size=training.batch_size,
            epochs=training.epochs,
            model=self._learner.module,
            max_steps=training.max_steps,
            max_backprops=training.max_backprops,
            stop=self._must_stop,
            save=self._must_save,
        )
        for batch in batches:
            self._record_opening()
            self._end_epochs()
            if self._best_at is not None:
                self._save()
            if not self._stopping.over:
                self._learner.step(stream, batch, self._lr_factor())
                self._after_step()
            if self._stopping.over:
                break
        batches.close()  # before the end is saved, also where training ends early
        self._record_opening()  # nothing was left to train, but lines of a run before are undone
        if not self._interrupted():
            self._end_epochs()
            if self._evaluated_at != stream.num_steps:
                self._evaluate("eval")
        reason = {"stopped_by": self._reason()}
        self._last |= self._line("end", reason)  # of the very step that is saved
        self._save_end()
        self._record("end", reason)
        return self._last

    def state_dict(self) -> dict[str, Any]:
        """What the loop goes on from, as JSON."""
        return {
            "epoch": self._epoch,
            "evaluated_at": self._evaluated_at,
            "num_lines": self._num_lines,
            "last": self._last,
            "seconds": self.seconds,
            "stopping": self._stopping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; before `run`."""
        self._epoch, self._evaluated_at = state["epoch"], state["evaluated_at"]
        self._num_lines, self._last = state["num_lines"], dict(state["last"])
        self._start = time.monotonic() - state["seconds"]
        self._stopping.load_state_dict(state["stopping"])
        self._opening = "resume"

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

    def _must_save(self) -> bool:
        """Asked on worker 0, before each step: whether the clock wants a checkpoint."""
        every_s = self._training.checkpoint_every_s
        return every_s is not None and time.monotonic() - self._last_save >= every_s

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
        return self._stopping.reason if self._stopping.over else self._stopped_by

    def _interrupted(self) -> bool:
        """Whether worker 0 was asked to stop; the other workers learn it here. Collective."""
        mine = np.array([self._reason() == INTERRUPTED], np.float64)
        return bool(self._stream.exchange.sum(mine)[0])

    def _end_epochs(self) -> None:
        """Evaluate once for each epoch that every worker has left behind."""
        while self._epoch < self._stream.epoch:
            self._epoch += 1
            if self._evaluation.every == 0:
                self._evaluate("epoch", self._epoch - 1)

    def _after_step(self) -> None:
        step, every = self._stream.num_steps, self._evaluation.every
        if every and step % every == 0:
            self._evaluate("eval")
        save_every = self._training.checkpoint_every
        if (save_every and step % save_every == 0) or self._stream.must_save:
            self._save()
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._record("train")

    def _save(self) -> None:
        """Write a checkpoint; a disk that is full ends no run that may go on without."""
        try:
            self._hooks.save(self._last, self._score())
        except OSError as error:
            self._record("not saved", {"error": f"{type(error).__name__}: {error}"})
        self._last_save = time.monotonic()
        self._best_at = None

    def _save_end(self) -> None:
        """Write the last checkpoint, without which the end of the run would be lost.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        try:
            self._hooks.save(self._last, self._score())
        except OSError as error:
            step = self._stream.num_steps
            raise RunDirectoryError(
                f"the last checkpoint, of step {step}, cannot be written ({error}); those before "
                "it are whole. Make room, then do the steps since then once more with "
                "`raysb train --resume RUN_DIR`"
            ) from error

    def _score(self) -> float | None:
        if self._evaluated_at != self._stream.num_steps:
            return None
        score = self._last.get("eval/error", self._last.get("eval/loss"))
        return None if score is None else float(score)

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
        again = self._evaluated_at == self._stream.num_steps  # of an epoch without a step
        self._evaluated_at = self._stream.num_steps
        self._last |= metrics
        self._record(kind, metrics)
        score = self._score()
        if score is not None and not again and self._stopping.update(score):
            self._best_at = self._evaluated_at if self._training.save_best else None

    def _record_opening(self) -> None:
        """Say, once, that training begins or goes on: later lines of a run before are undone."""
        if self._opening is not None:
            self._record(self._opening)
            self._opening = None

    def _record(self, kind: str, metrics: Mapping[str, Any] | None = None) -> None:
        self._last_line = time.monotonic()
        line = self._line(kind, metrics)
        self._num_lines += 1
        self._last |= line
        if self._stream.exchange.rank == 0:
            self._hooks.record(line)

    def _line(self, kind: str, metrics: Mapping[str, Any] | None = None) -> dict[str, Any]:
        stream = self._stream
        return {
            "kind": kind,
            "line": self._num_lines,
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
    line = {**line, **_scorers(progress)}
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
    metrics |= {f"score/{name}": value for name, value in progress.get("audits", {}).items()}
    return {**line, **metrics}


def _scorers(progress: Mapping[str, Any]) -> dict[str, int]:
    """How many scorers there are, and the fewest and the most that there were."""
    found = progress.get("scorers")
    return {f"scorers/{name}": count for name, count in found.items()} if found else {}
