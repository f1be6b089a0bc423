"""Parts a and b: the number of scorers where scorers are slow, and where trainers are."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.runs import Run
from bench.slow_runs import finish, started
from bench.throttled import set_pace
from raysb.scoring.limits import limits_as_grown
from raysb.training.audit import read_audit

ROWS, POOL, BATCH, MOST = 8000, 32, 16, 4
SLOW_SCORERS, SLOW_TRAINERS = {"score": 0.25 / POOL}, {"step": 0.15}
FULL_LINES, FED_S = 8, 40.0  # a line a second
FLAGS = f"""
  --scoring.num_actors 1,{MOST} --scoring.batch_size {POOL} --scoring.num_cpus 0.1
  --train.batch_size {BATCH} --train.num_cpus 0.5
"""
MOST_SCORERS, AGE, AGE_OF_RUN = "most scorers", "oldest score, steps", "oldest score of all, steps"


def goals() -> dict[str, float]:
    """What must hold, by name: one scorer for the fed, and ages within their bounds."""
    scorers = (1, MOST)
    grown = limits_as_grown(
        "auto", pool_rows=POOL, batch_size=BATCH, num_workers=1, num_actors=scorers
    )
    bounds = {AGE: grown[0].max_age, AGE_OF_RUN: grown[-1].max_age}
    return {MOST_SCORERS: 1} | {name: float(bound or 0) for name, bound in bounds.items()}


def hungry(folder: Path) -> dict[str, float]:
    """Scorers are slow until there are as many as may be, then the trainers are."""
    set_pace(**SLOW_SCORERS)
    with started(folder, ROWS, FLAGS) as run:
        run.wait("all scorers", lambda: _counts(run.lines()).count(MOST) >= FULL_LINES)
        set_pace(**SLOW_TRAINERS)
        turned = len(run.lines())
        run.wait("one scorer again", lambda: 1 in _counts(run.lines()[turned:]))
        ended = len(run.lines())
        rows = finish(run, ROWS)
    lines = run.lines()
    return growth(run, lines[:turned]) | decline(lines[turned - 1 : ended]) | rows


def fed(folder: Path) -> dict[str, float]:
    """Trainers are slow from the start."""
    set_pace(**SLOW_TRAINERS)
    with started(folder, ROWS, FLAGS) as run:
        run.wait("a while", lambda: _seconds(run.lines()) > FED_S)
        seen = run.lines()
        rows = finish(run, ROWS)
    return {MOST_SCORERS: max(_counts(seen)), AGE: _oldest(run, 0, seen[-1]["step"])} | rows


def _seconds(lines: list[dict[str, Any]]) -> float:
    """Since the first batch."""
    return float(lines[-1]["wall_time_s"] - lines[0]["wall_time_s"]) if lines else 0.0


def _counts(lines: list[dict[str, Any]]) -> list[int]:
    """How many scorers there are, 0 where a line says nothing of them."""
    return [line.get("scorers/running", 0) for line in lines]


def growth(run: Run, lines: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds to each number, and rows/s and ages while it lasted."""
    found = {}
    for count in range(2, MOST + 1):
        at = _first(lines, lambda n, count=count: n >= count)
        found[f"first batch to {count} scorers, s"] = at - lines[0]["wall_time_s"]
    for count in range(1, MOST + 1):
        ones = [x for x, n in zip(lines, _counts(lines), strict=True) if n == count][1:]
        if len(ones) >= 3:  # else it is on its way to another number
            found[f"rows scored/s with {count}"] = _rate(ones[0], ones[-1])
            age = _oldest(run, ones[0]["step"], ones[-1]["step"])
            found[f"oldest score with {count}, steps"] = age
    return found | {AGE_OF_RUN: _oldest(run)}


def decline(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds to each number since the first line."""
    found = {}
    for count in range(MOST - 1, 0, -1):
        at = _first(lines, lambda n, count=count: n <= count)
        found[f"trainers slow to {count} scorers, s"] = at - lines[0]["wall_time_s"]
    return found


def _first(lines: list[dict[str, Any]], is_so: Callable[..., bool]) -> float:
    """Seconds of the run at its first line with such a number of scorers."""
    pairs = zip(lines, _counts(lines), strict=True)
    return float(next(line["wall_time_s"] for line, n in pairs if n and is_so(n)))


def _rate(a: dict[str, Any], b: dict[str, Any]) -> float:
    return float((b["num_scored"] - a["num_scored"]) / (b["wall_time_s"] - a["wall_time_s"]))


def _oldest(run: Run, start: int = 0, end: int = sys.maxsize) -> float:
    """The greatest age of a score that was trained on in steps (start, end]."""
    audit = read_audit(run.directory / "audit")
    step = audit["step"].to_numpy()
    ages = step - 1 - audit["weights_step"].to_numpy()
    return float(np.max(ages[(step > start) & (step <= end)]))
