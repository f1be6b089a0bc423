"""One training run as both engines take it, and who watches it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raysb.history.settings import History
from raysb.report.directory import METRICS, MODEL, NONFINITE
from raysb.report.records import MetricsWriter
from raysb.schema import Source
from raysb.training.audit import Audit
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

    def audit(self, directory: Path) -> Audit | None:
        """Who notes every trained row, if that was asked for."""
        return Audit(str(directory.absolute() / "audit")) if self.training.audit else None


class Recorder:
    """Writes lines of metrics into the run directory, and shows them.

    Args:
        directory: The run directory, on a local file system.
        watcher: Is told of every line.
    """

    def __init__(self, directory: Path, watcher: Watcher) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._writer = MetricsWriter(directory / METRICS)
        self._watcher = watcher

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write and show one line."""
        self._writer.write(line)
        self._watcher.line(line)

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
            shutil.copyfile(weights / MODEL, self._directory / MODEL)
