"""One training run as both engines take it, and who watches it."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from raysb.history.settings import History
from raysb.report.directory import METRICS, MODEL, NONFINITE
from raysb.report.loggers import Loggers
from raysb.report.loggers.base import FAILED, FINISHED, INTERRUPTED
from raysb.report.records import MetricsWriter
from raysb.schema import Source
from raysb.training.audit import Audit
from raysb.training.checkpoint import export
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec


class Watcher(Protocol):
    """Whoever shows a run: the command line's console."""

    def phase(self, name: str) -> None:
        """A phase of the start has ended."""

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics."""


class Silent:
    """Shows nothing."""

    def phase(self, name: str) -> None:
        """Ignore."""

    def line(self, line: Mapping[str, Any]) -> None:
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

    def audit(self, directory: Path) -> Audit | None:
        """Who notes every trained row, if that was asked for."""
        return Audit(str(directory.absolute() / "audit")) if self.training.audit else None

    def recorder(self, directory: Path) -> "Recorder":
        """What takes the run's lines of metrics, in the process that looks on."""
        build = partial(self.spec.task.build, self.spec.seed)
        return Recorder(directory, self.watcher, build, self.loggers)


class Recorder:
    """Writes lines of metrics into the run directory, shows them, and passes them to loggers.

    Args:
        directory: The run directory, on a local file system.
        watcher: Is told of every line.
        build: Builds the run's model, whose frozen parts are in no checkpoint.
        loggers: Are told of every line.
    """

    def __init__(
        self,
        directory: Path,
        watcher: Watcher,
        build: Callable[[], nn.Module],
        loggers: Loggers | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._writer = MetricsWriter(directory / METRICS)
        self._watcher = watcher
        self._build = build
        self._loggers = loggers or Loggers()
        self._loggers.start(directory)
        self._stopped_by: Any = None

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write, show and pass on one line."""
        self._writer.write(line)
        self._watcher.line(line)
        self._loggers.log(line)
        self._stopped_by = line.get("stopped_by")

    def phase(self, name: str) -> None:
        """Say that a phase of the start has ended."""
        self._watcher.phase(name)

    def finish(self, nonfinite: Mapping[int, int], weights: Path | None) -> None:
        """Leave the list of losses that were not finite, and the trained weights."""
        self._writer.close()
        if nonfinite:
            listed = {str(sample): count for sample, count in nonfinite.items()}
            (self._directory / NONFINITE).write_text(json.dumps(listed, indent=0))
        if weights is not None:
            export(self._build, weights, self._directory / MODEL)
        self._loggers.finish(_status(weights, self._stopped_by))


def _status(weights: Path | None, stopped_by: Any) -> str:
    """How a run ended: with weights, asked to stop or not, or with the error being handled."""
    if stopped_by == INTERRUPTED or isinstance(sys.exc_info()[1], KeyboardInterrupt):
        return INTERRUPTED
    return FAILED if weights is None else FINISHED
