"""What a run says while it works: plain lines without colour, some of them shown, all in the log.

Keys of a record that are known here (a missing or empty one is left out of its line):

step, epoch, epochs        optimizer steps; epochs so far (a fraction) and in all
wall_time_s, left_s        seconds since the first step, and expected until the end
share                      of the run that is over, in [0, 1]
num_scored                 rows scored so far
num_backpropped            rows back-propagated so far
kept                       fraction of the scored rows that was selected, lately
age                        steps between the weights that scored a row and the step that used it
score/loss, score/error    over the rows scored in the epoch so far
score/agreement, /overlap of cheap scores with the live model's, in the last few audits
score/fallback             1 once the live model scores in place of what stood in for it
eval/loss, eval/error      of the last evaluation
scorers/running            scorers that are up
scorers/least, /most       the fewest and the most that were up
weights/published_bytes    of the trained part of the model, which scorers are sent
weights/total_bytes        of the whole model
"""

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TextIO, TypeAlias

from raysb.printable import printable

Record: TypeAlias = Mapping[str, Any]

FIRST_GAP_S = 5.0
GAP_GROWTH = 1 / 8  # of the time so far: 17 lines in the log for 2 minutes, 45 for an hour
# What is shown of these lines: fewer than 40 in all, however long the run (`Thinning`).
PROGRESS_SHARE, EVALUATION_SHARE = 1 / 10, 1 / 24  # the latter shows each of 20 epochs
TIME_GROWTH = 3.0

_COUNTS = ("num_scored", "num_backpropped", "wall_time_s")


def phases_line(phases: Mapping[str, float]) -> str:
    """Start-up by phase, e.g. `ray 4.1 s, workers 9.8 s, first batch 0.6 s`."""
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())


def progress_line(record: Record, before: Record | None = None) -> str:
    """One line of progress; rates are those since the record before, else since the start."""
    before = before or {}
    seconds = _since(record, before, "wall_time_s")
    parts = [_epoch(record)]
    for key, what in (("num_scored", "scored"), ("num_backpropped", "back-propagated")):
        count = _since(record, before, key)
        if count is not None and seconds:
            parts.append(f"{what} {count / seconds:,.0f}/s")
    parts += [
        _part(record, "kept", lambda v: f"kept {v:.0%}"),
        _part(record, "age", lambda v: f"age {v:.1f} steps"),
        _scorers(record),
        _part(record, "score/loss", lambda v: f"loss {v:.4g}"),
        _part(record, "eval/error", lambda v: f"eval error {v:.2%}"),
        _part(record, "left_s", lambda v: f"{duration(v)} left"),
    ]
    return ", ".join(filter(None, parts))


def evaluation_line(record: Record) -> str:
    """One line for an evaluation, e.g. `eval: error 3.20%, loss 0.101, epoch 2/10, step 156`."""
    parts = [*_reached(record), _epoch(record), _part(record, "step", lambda v: f"step {v:,.0f}")]
    return "eval: " + ", ".join(filter(None, parts))


def summary_lines(summary: Record, directory: str | Path) -> list[str]:
    """What was reached, at which cost, and where it lies.

    Args:
        summary: Keys of a record at the end of the run, and `cost` (epochs of uniform training
            with the same cost), `stopped_by` (the setting that ended the run early, or
            "interrupted"), `num_unused` (rows selected, not used), `num_nonfinite` (losses NaN or
            infinite).
        directory: The run directory.
    """
    reached = [
        *_reached(summary),
        _epoch(summary),
        _part(summary, "step", lambda v: f"{v:,.0f} steps"),
    ]
    cost = [
        _part(summary, "num_scored", lambda v: f"{v:,.0f} rows scored"),
        _part(summary, "num_backpropped", lambda v: f"{v:,.0f} back-propagated"),
        _part(summary, "cost", lambda v: f"the cost of {v:.2f} epochs of uniform training"),
        _part(summary, "wall_time_s", lambda v: f"{v:.1f} s"),
        _scorers(summary),
        _published(summary),
    ]
    notes = [
        _stopped(summary.get("stopped_by")),
        _part(summary, "num_unused", lambda v: f"{v:,.0f} selected rows not used" if v else ""),
        _part(summary, "num_nonfinite", lambda v: f"{v:,.0f} losses not finite" if v else ""),
    ]
    scores = [
        _part(
            summary, "score/agreement", lambda v: f"rank correlation {v:.3f} with the live model's"
        ),
        _part(summary, "score/overlap", lambda v: f"{v:.0%} of its highest third found"),
        "the live model scored in the end" if summary.get("score/fallback") else "",
    ]
    lines = [("reached", reached), ("cost", cost), ("scores", scores), ("note", notes)]
    lines += [("written", [str(directory)])]
    texts = [(name, ", ".join(filter(None, parts))) for name, parts in lines]
    return [f"{name + ':':<9}{text}" for name, text in texts if text]


def duration(seconds: float) -> str:
    """Seconds as `0:45`, `12:03` or `3:04:05`; half seconds are rounded up."""
    minutes, rest = divmod(math.floor(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Thinning:
    """Which lines of a run are shown: many at first, few of a long run, each kind at its pace.

    A line of progress is shown a tenth of the run after the line before, an evaluation 1/24 of the
    run after the one before; both, too, when the time since the start has trebled, which is all
    that counts where it is not known how long the run will take. A run of T has at most about
    25 + log3(T / 2 min) lines: 36 for a month.
    """

    def __init__(self) -> None:
        self._seconds = FIRST_GAP_S / TIME_GROWTH
        self._share = self._evaluation = 0.0

    def progress(self, seconds: float, share: float | None) -> bool:
        """Whether to show a line of progress now."""
        later = share is not None and share - self._share >= PROGRESS_SHARE
        return self._take(seconds, share, later)

    def evaluation(self, seconds: float, share: float | None) -> bool:
        """Whether to show an evaluation now; the last one always."""
        gone = None if share is None else share - self._evaluation
        later = gone is not None and (gone >= EVALUATION_SHARE or share == 1.0)
        shown = self._take(seconds, share, later)
        self._evaluation = share or 0.0 if shown else self._evaluation
        return shown

    def _take(self, seconds: float, share: float | None, later: bool) -> bool:
        if not (later or seconds >= self._seconds * TIME_GROWTH):
            return False
        self._seconds = max(seconds, self._seconds)
        self._share = share or 0.0
        return True


class Console:
    """Writes the lines of a run: all of them into a log, those that `Thinning` picks to a stream.

    The times of the records decide when a line is due, never a clock: the same records give the
    same lines. Lines may come from several threads.

    Args:
        stream: Where lines go; None: standard output.
        progress: Whether lines of progress are shown at all; not where they are drawn live.
    """

    def __init__(self, stream: TextIO | None = None, *, progress: bool = True) -> None:
        self._stream = stream
        self._shows_progress = progress
        self._lines: list[str] = []
        self._log: TextIO | None = None
        self._shown: Record = {}
        self._due_s = FIRST_GAP_S
        self._thinning = Thinning()
        self._lock = Lock()
        self._gone = False  # nobody reads the stream any more

    def line(self, text: str, *, show: bool = True) -> None:
        """Write one line into the log, and show it; a name in it cannot steer the terminal."""
        text = printable(text)
        with self._lock:
            if show and not self._gone:
                self._show(text)
            if self._log is None:
                self._lines.append(text)
            else:
                self._log.write(text + "\n")

    def _show(self, text: str) -> None:
        stream = self._stream or sys.stdout
        try:
            stream.write(text + "\n")
            stream.flush()
        except OSError as error:  # `| head` has left, the disk is full: the run is worth more
            self._gone = True
            _discard(stream)
            with suppress(OSError):
                sys.stderr.write(
                    f"raysb: the output cannot be written ({error.strerror}); the run goes on, and "
                    "run.log has every line\n"
                )

    def log_to(self, path: Path) -> None:
        """Write every line also into a file, with those that came before it existed."""
        with self._lock:
            self._log = open(path, "a", encoding="utf-8", buffering=1)
            self._log.writelines(f"{text}\n" for text in self._lines)
            self._lines.clear()

    def phases(self, phases: Mapping[str, float]) -> None:
        """Say how long the start took."""
        self.line(f"start: {phases_line(phases)}")

    def progress(self, record: Record) -> None:
        """Write a line of progress if one is due."""
        seconds = record.get("wall_time_s") or 0.0
        if seconds >= self._due_s:
            show = self._shows_progress and self._thinning.progress(seconds, record.get("share"))
            self.line(progress_line(record, self._shown), show=show)
            self._schedule(record)

    def evaluation(self, record: Record) -> None:
        """Write the line of an evaluation; the next line of progress comes a full gap later."""
        seconds = record.get("wall_time_s") or 0.0
        show = self._thinning.evaluation(seconds, record.get("share"))
        self.line(evaluation_line(record), show=show)
        if all(key in record for key in _COUNTS):  # else the rates would miss where they start
            self._schedule(record)

    def summary(self, summary: Record, directory: str | Path) -> None:
        """Say what was reached, at which cost, and where it lies."""
        for text in summary_lines(summary, directory):
            self.line(text)

    def close(self) -> None:
        """Close the log file; closing twice is fine."""
        with self._lock:
            if self._log is not None:
                self._log.close()

    def _schedule(self, record: Record) -> None:
        seconds = float(record["wall_time_s"])
        self._due_s = seconds + max(FIRST_GAP_S, seconds * GAP_GROWTH)
        self._shown = {key: record[key] for key in _COUNTS if key in record}


def _discard(stream: TextIO) -> None:
    """Lead a stream nowhere, else what it still holds is an error when the process ends."""
    with suppress(OSError), open(os.devnull, "w") as nowhere:  # not every stream has a file
        os.dup2(nowhere.fileno(), stream.fileno())


def _stopped(reason: str | None) -> str:
    if reason is None or reason == "interrupted":
        return reason or ""
    return f"stopped by {reason}"


def _published(record: Record) -> str:
    """Which part of the weights is sent to the scorers, where it is not all of them."""
    sent, total = record.get("weights/published_bytes"), record.get("weights/total_bytes")
    if sent is None or total is None or sent >= total:
        return ""
    return f"{sent:,} of {total:,} bytes of weights published"


def _part(record: Record, key: str, text: Callable[[float], str]) -> str:
    value = record.get(key)
    return text(value) if value is not None and math.isfinite(value) else ""


def _scorers(record: Record) -> str:
    """How many scorers there were, where their number has changed."""
    least, most = record.get("scorers/least"), record.get("scorers/most")
    if least is None or least == most:
        return ""
    running = record["scorers/running"]
    return f"{running:.0f} scorer{'s' if running != 1 else ''} ({least:.0f} to {most:.0f})"


def _since(record: Record, before: Record, key: str) -> float | None:
    value = record.get(key)
    return None if value is None else float(value) - float(before.get(key) or 0)


def _epoch(record: Record) -> str:
    in_all = _part(record, "epochs", lambda v: f"/{v:.4g}")
    return _part(record, "epoch", lambda v: f"epoch {v:.4g}{in_all}")


def _reached(record: Record) -> list[str]:
    return [
        _part(record, "eval/error", lambda v: f"error {v:.2%}"),
        _part(record, "eval/loss", lambda v: f"loss {v:.4g}"),
    ]
