"""One training run as both engines take it, and who watches it."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from raysb.history.settings import History
from raysb.report.directory import BEST, METRICS, MODEL, NONFINITE
from raysb.report.loggers import Loggers
from raysb.report.loggers.base import FAILED, FINISHED, INTERRUPTED
from raysb.report.records import MetricsWriter
from raysb.schema import Source
from raysb.training.audit import Audit
from raysb.training.checkpoint import export
from raysb.training.checkpoints import Checkpoints, Entry
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec


class Watcher(Protocol):
    """Whoever shows a run: the command line's console."""

    def phase(self, name: str) -> None:
        """A phase of the start has ended."""

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics."""

    def note(self, text: str) -> None:
        """Something that concerns the run as a whole."""


class Silent:
    """Shows nothing."""

    def phase(self, name: str) -> None:
        """Ignore."""

    def line(self, line: Mapping[str, Any]) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What to train, on what, and where the results go.

    Args:
        spec: What is read, scored, selected and trained.
        training: Epochs, batch size, optimizer, limits.
        evaluation: How often, and with how many rows at once.
        history: Shards of what is known per sample.
        held_out: Rows to evaluate on, or `None`.
        optimizer: As given to the trainer.
        directory: The run directory, `None`: the engine's own choice.
        watcher: Is told of phases and metrics.
        verbose: Leave Ray's own output on.
        loggers: Are told of metrics too, on the driver.
        checkpoint_folder: Where checkpoints lie, also a URI; by default in the run directory.
    """

    spec: StreamSpec
    training: Training
    evaluation: Evaluation
    history: History
    held_out: Source | None
    optimizer: Any
    directory: Path | None
    watcher: Watcher
    verbose: bool
    loggers: Loggers = field(default_factory=Loggers)
    checkpoint_folder: str | None = None

    def __post_init__(self) -> None:
        training = self.training
        for name, on in (("patience", training.patience), ("save_best", training.save_best)):
            if on and self.held_out is None:
                raise ValueError(
                    f"train.{name}={str(on).lower()}: there are no rows to evaluate on, so that no "
                    "evaluation would be the best; set data.test or data.test_fraction, or leave "
                    f"train.{name} out"
                )

    def checkpoints(self, directory: Path) -> Checkpoints:
        """Those of the run. A run that finds some there goes on from the newest."""
        folder = self.checkpoint_folder or str(directory.absolute())
        return Checkpoints(folder=folder, keep=self.training.keep_checkpoints)

    def audit(self, directory: Path) -> Audit | None:
        """Who notes every trained row, if that was asked for."""
        return Audit(str(directory.absolute() / "audit")) if self.training.audit else None

    def recorder(self, directory: Path) -> "Recorder":
        """What takes the run's lines of metrics, in the process that looks on."""
        build = partial(self.spec.task.build, self.spec.seed)
        best = self.training.save_best
        return Recorder(directory, self.watcher, build, self.loggers, best=best)


class Recorder:
    """Writes lines of metrics into the run directory, shows them, and passes them to loggers.

    Args:
        directory: The run directory, on a local file system.
        watcher: Is told of every line.
        build: Builds the run's model, whose frozen parts are in no checkpoint.
        loggers: Are told of every line.
        best: Leave the weights of the best evaluation too.
    """

    def __init__(
        self,
        directory: Path,
        watcher: Watcher,
        build: Callable[[], nn.Module],
        loggers: Loggers | None = None,
        *,
        best: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._writer = MetricsWriter(directory / METRICS)
        self._watcher = watcher
        self._build = build
        self._loggers = loggers or Loggers()
        self._best = best
        self._loggers.start(directory)
        self._stopped_by: Any = None
        self._began = False

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write, show and pass on one line."""
        if not self._began:  # what lies there of a run that goes on is older than it will be
            (self._directory / MODEL).unlink(missing_ok=True)
            self._began = True
        self._writer.write(line)
        self._watcher.line(line)
        self._loggers.log(line)
        self._stopped_by = line.get("stopped_by")

    def phase(self, name: str) -> None:
        """Say that a phase of the start has ended."""
        self._watcher.phase(name)

    def finish(self, nonfinite: Mapping[int, int], weights: Checkpoints | None) -> None:
        """Leave the list of losses that were not finite, and the newest weights."""
        self._writer.close()
        if nonfinite:
            listed = {str(sample): count for sample, count in nonfinite.items()}
            with self._told_if_full(NONFINITE, "metrics.jsonl has their number"):
                (self._directory / NONFINITE).write_text(json.dumps(listed, indent=0))
        if weights is not None:
            self._leave(weights, weights.newest(), MODEL)
            if self._best:
                self._leave(weights, weights.best(), BEST)
        self._loggers.finish(_status(weights, self._stopped_by))

    def _leave(self, weights: Checkpoints, entry: Entry | None, name: str) -> None:
        if entry is not None:
            where = f"{weights.folder}/{entry.name} has the weights, and `raysb eval` finds them"
            with weights.local(entry) as folder, self._told_if_full(name, where):
                export(self._build, folder, self._directory / name)

    @contextmanager
    def _told_if_full(self, name: str, instead: str) -> Iterator[None]:
        """A disk that is full at the end is no reason for a run to fail that has its checkpoint."""
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            self._watcher.note(f"{self._directory / name} cannot be written: {why}; {instead}")


def _status(weights: Checkpoints | None, stopped_by: Any) -> str:
    """How a run ended: with weights, asked to stop or not, or with the error being handled."""
    if stopped_by == INTERRUPTED or isinstance(sys.exc_info()[1], KeyboardInterrupt):
        return INTERRUPTED
    return FAILED if weights is None else FINISHED
