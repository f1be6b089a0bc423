"""Part d: what `raysb train` costs beside training: its start, its end, and between epochs.

The command runs as its users run it; an optimizer that notes the time of every step tells when
training began and ended, on the same clock as this process.
"""

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench import stamps
from bench.measures import Measure, failed
from bench.problem import SHAPES, synthetic_rows
from raysb.report.records import read_metrics

ROWS, EPOCHS, MANY = 6000, 3, 1000
IMPORTS = "import torch, ray, ray.data, ray.train.torch"  # what most processes of a start do
LIMIT_S = 240
_PHASE = re.compile(r"([a-z][a-z ]*) ([0-9.]+) s")


@dataclass(frozen=True)
class Timed:
    """One run of the command, in seconds.

    Args:
        start: From the command to the end of the first step.
        end: From the last step to the prompt.
        phases: Of the start, as the command said.
        gaps: Between the last step of an epoch and the first of the next, without the evaluation
            and without a median step.
        closing: Evaluation and checkpoint after the last step, part of `end`.
    """

    start: float
    end: float
    phases: dict[str, float]
    gaps: list[float]
    closing: float


def measure(repeats: int, data: str | None, report: Callable[[Measure], None]) -> None:
    """Whole runs, then runs of one step whose plans are short and long, in turn."""
    with tempfile.TemporaryDirectory(prefix="raysb-bench-") as folder:
        flags = ["--data.train", data] if data else _write_rows(Path(folder))
        whole = _repeat(
            "a whole run", repeats, lambda: (_run(flags, EPOCHS), _import_alone()), report
        )
        _report_whole([run for run, _ in whole], [imports for _, imports in whole], report)
        pairs = _repeat(
            "start of 1,000 epochs",
            repeats,
            lambda: (
                _run(flags, 1, "--train.max_steps", "1"),
                _run(flags, MANY, "--train.max_steps", "1"),
            ),
            report,
        )
        _report_pairs(pairs, report)


def _repeat(
    what: str, repeats: int, once: Callable[[], Any], report: Callable[[Measure], None]
) -> list[Any]:
    try:
        return [once() for _ in range(repeats)]
    except Exception as error:
        report(failed("d", what, error))
        return []


def _import_alone() -> float:
    """Seconds of one process alone: what this machine takes for what a start does many times."""
    began = time.time()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=LIMIT_S)
    return time.time() - began


def _report_whole(
    runs: list[Timed], imports: list[float], report: Callable[[Measure], None]
) -> None:
    if not runs:
        return
    report(_line("command to the first step, s", [r.start for r in runs], at_most=15.0))
    for phase in runs[0].phases:
        report(_line(f"of it {phase}, s", [r.phases.get(phase, 0.0) for r in runs]))
    unsaid = [r.start - sum(r.phases.values()) for r in runs]
    report(_line("of it imports before the first phase, and the first step, s", unsaid))
    report(_line("for scale: one process that imports torch and Ray, alone, s", imports))
    scaled = [run.start / alone for run, alone in zip(runs, imports, strict=True)]
    report(_line("command to the first step / that", scaled))
    report(_line("last step to the prompt, s", [r.end for r in runs], at_most=2.0))
    report(_line("of it evaluation, checkpoint and end of the loop, s", [r.closing for r in runs]))
    gaps = [gap for r in runs for gap in r.gaps]
    note = "without evaluation and a median step; goal 0: at most .1"
    report(_line("lost between two epochs, s", gaps, at_most=0.1, note=note))


def _report_pairs(pairs: list[tuple[Timed, Timed]], report: Callable[[Measure], None]) -> None:
    if not pairs:
        return
    more = [many.start - one.start for one, many in pairs]
    name = f"start of {MANY:,} epochs minus start of 1, s"
    report(_line(name, more, at_most=2.0))
    report(_line("end of 1 epoch stopped at step 1, s", [one.end for one, _ in pairs]))
    name = f"end of {MANY:,} epochs stopped at step 1, s"
    report(_line(name, [many.end for _, many in pairs]))


def _line(name: str, values: list[float], **more: Any) -> Measure:
    return Measure(part="d", name=f"raysb train: {name}", values=values, **more)


def _write_rows(folder: Path) -> list[str]:
    """Made-up rows as a parquet file of raw pixels, and the flags that name it."""
    rows = synthetic_rows(SHAPES["mnist"], ROWS)
    images = pa.array([image.tobytes() for image in rows["image"]])
    pq.write_table(
        pa.table({"image": images, "label": rows["label"]}),
        folder / "rows.parquet",
        row_group_size=1000,
    )
    path = str(folder / "rows.parquet")
    return ["--data.train", path, "--data.image_size", "[28, 28]"]


def _run(rows: list[str], epochs: int, *flags: str) -> Timed:
    with tempfile.TemporaryDirectory(prefix="raysb-bench-") as folder:
        stamped, run = f"{folder}/stamps", f"{folder}/run"
        words = [
            *(sys.executable, "-m", "raysb", "train", *rows),
            *("--data.test_fraction", "0.1"),
            *("--model.name", "cnn", "--train.epochs", str(epochs), "--run.dir", run),
            *("--train.optimizer", "bench.stamps:StampedSGD", "--train.lr", "0.01", *flags),
        ]
        began = time.time()
        done = subprocess.run(
            words,
            env={**os.environ, stamps.FILE: stamped},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        over = time.time()
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
        return _timed(began, over, stamps.read(stamped), done.stdout, read_metrics(run))


def _timed(
    began: float, over: float, steps: list[float], said: str, lines: list[dict[str, Any]]
) -> Timed:
    between = [b - a for a, b in itertools.pairwise(steps)]
    median = statistics.median(between) if between else 0.0
    ends = {
        line["step"]: line.get("eval/seconds", 0.0)
        for line in lines
        if line["kind"] == "epoch" and 0 < line["step"] < len(steps)
    }
    gaps = [steps[at] - steps[at - 1] - took - median for at, took in ends.items()]
    start = next((text for text in said.splitlines() if text.startswith("start: ")), "")
    phases = {name: float(s) for name, s in _PHASE.findall(start.removeprefix("start: "))}
    # in the worker's own clock: from the first batch, just before the first step, to the last line
    clock = {line["kind"]: line["wall_time_s"] for line in lines}
    closing = clock["end"] - clock["start"] - (steps[-1] - steps[0])
    return Timed(steps[0] - began, over - steps[-1], phases, gaps, closing)
