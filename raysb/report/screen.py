"""A run as its console shows it: lines for whoever reads them later, figures on a terminal."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raysb.interrupt import STOPPING
from raysb.report.console import Console

if TYPE_CHECKING:
    from raysb.report.figures import Figures
    from raysb.report.live import Live
    from raysb.training.settings import Training

LIMITS = {  # of the settings, and what of a line of metrics counts towards them
    "max_steps": "step",
    "max_backprops": "num_backpropped",
    "max_time_s": "wall_time_s",
    "max_cost": "cost",
}
FIGURES = ("eval/error", "eval/loss")  # of an evaluation; a run without test rows has none


class Screen:
    """Shows a run: the phases of its start, progress, evaluations, and what it came to.

    On a terminal the figures of the moment are drawn below the lines, until the summary.

    Args:
        training: The run's settings, for what a line of metrics does not say.
        began: When the command was given, `time.monotonic()`.
    """

    def __init__(self, training: "Training", began: float) -> None:
        self._training = training
        self._since = began
        self._phases: dict[str, float] = {}
        self._last: dict[str, Any] = {}
        self._figures: Figures | None = None
        self._live: Live | None = None
        self._draw_live()
        self._console = Console(progress=self._live is None)

    def _draw_live(self) -> None:
        from raysb.report.live import Live, can_draw

        if can_draw(sys.stdout):
            from raysb.report.figures import Figures

            utf8 = "utf" in (sys.stdout.encoding or "").lower()
            self._figures = Figures(ascii=not utf8)
            self._live = Live(self._figures.rows, sys.stdout)

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_drawing()

    @contextmanager
    def logging_to(self, path: Path) -> Iterator[None]:
        """Write every line also into a file, while the block runs."""
        self._console.log_to(path)
        try:
            yield
        finally:
            self._console.close()

    def phase(self, name: str) -> None:
        """Note a phase; the last one is the first batch, and then all are shown."""
        if name == STOPPING:
            self._console.line("stopping after the next step; Ctrl-C again ends the run at once")
            return
        now = time.monotonic()
        self._phases[name] = now - self._since
        self._since = now
        if self._figures is not None:
            self._figures.phase(name, self._phases[name])
        if name == "first batch":
            self._console.phases(self._phases)

    def note(self, text: str) -> None:
        """Say something that concerns the run as a whole."""
        self._console.line(text)

    def line(self, line: Mapping[str, Any]) -> None:
        """Show a line of metrics if it is one to show."""
        if line["kind"] == "not saved":
            self._console.line(
                f"no checkpoint at step {line['step']}: {line['error']}; the run goes on, and the "
                "checkpoints before it are as they were"
            )
        if line["kind"] == "resume":
            self._console.line(f"going on from the checkpoint of step {line['step']}")
        if line.get("score/fallback") and not self._last.get("score/fallback"):
            self._console.line(
                f"warning: cheap scores rank as the live model's by {line['score/agreement']:.2f} "
                "only (scoring.min_agreement): from here on it scores, in full precision and "
                "size, and with the weights of every step"
            )
        record = self._record(line)
        if self._figures is not None:
            self._figures.update(record)
        evaluated = any(figure in line for figure in FIGURES)
        if line["kind"] in ("epoch", "eval") and evaluated:
            self._console.evaluation(record)
        elif line["kind"] in ("epoch", "eval", "train"):
            self._console.progress(record)
        self._last |= record

    def summary(self, directory: Any) -> None:
        """Say what was reached, at which cost, and where it lies."""
        self._stop_drawing()
        record = {
            **self._last,
            "num_unused": self._last.get("select/waiting_rows"),
            "num_nonfinite": self._last.get("score/nonfinite"),
        }
        self._console.summary(record, directory)

    def ended_at_once(self, directory: Any) -> None:
        """Say what is left of a run that was not even asked to stop in order."""
        self._stop_drawing()
        self._console.line(f"interrupted at once: {directory} has what was written until then")

    def _stop_drawing(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _record(self, line: Mapping[str, Any]) -> dict[str, Any]:
        share = self._share(line)
        return {
            **line,
            "epoch": line["fraction"] * self._training.epochs,
            "epochs": self._training.epochs,
            "share": share,
            "left_s": line["wall_time_s"] * (1 - share) / share if share else None,
            "kept": line.get("select/kept_fraction"),
            "age": line.get("mean_age_steps"),
            "eval/error": line.get("eval/error", self._last.get("eval/error")),
        }

    def _share(self, line: Mapping[str, Any]) -> float:
        """How much of the run is over, by whichever limit comes first. In [0, 1]"""
        shares = [line["fraction"]]
        for name, key in LIMITS.items():
            limit = getattr(self._training, name)
            if limit is not None:
                shares.append(line[key] / limit)
        return float(min(max(shares), 1.0))
