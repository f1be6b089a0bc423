"""Part h: rows a second as scorers go from 1 to 8, where a pool takes a scorer 50 ms of sleep.

The trainer costs nothing and the rows are small: what is left is the pipeline's own price. Here
it is of a pool, not of its rows: pools of four times the rows show how far that goes.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measures import Measure, failed
from bench.problem import Trace
from bench.rays import many_cpus, run_in_workers
from raysb.losses import cross_entropy
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.settings import Data
from raysb.stream import SelectiveStream
from raysb.training.stream import get_stream

POOL, SLEEP_S, BATCH = 256, 0.05, 128
LARGE_POOL = 1024
SCORERS = (1, 2, 4, 8)
CASES = {  # bound on ages, rows of a pool
    "default bound on ages": ("auto", POOL),
    "no bound on ages": (None, POOL),
    f"pools of {LARGE_POOL:,}": ("auto", LARGE_POOL),
}


def measure(repeats: int, pools_each: int, report: Callable[[Measure], None]) -> None:
    """Run with and without the gate on ages, and with large pools; each in its own workers."""
    with many_cpus(12):
        for what, (bound, pool) in CASES.items():
            try:
                found = _run(bound, pool, repeats, pools_each * POOL // pool)
            except Exception as error:
                report(failed("h", f"scorers that sleep, {what}", error))
                continue
            _report(what, found, 0.9 if pool == POOL else None, report)


def _report(
    what: str,
    found: dict[str, list[float]],
    goal: float | None,
    report: Callable[[Measure], None],
) -> None:
    base = found["1"]
    for count in SCORERS:
        rates = found[str(count)]
        report(Measure(part="h", name=f"{count} scorers that sleep, {what}: rows/s", values=rates))
        if count > 1:
            shares = [rate / (count * one) for rate, one in zip(rates, base, strict=True)]
            name = f"{count} scorers / {count} x one scorer, {what}"
            report(Measure(part="h", name=name, values=shares, at_least=goal))


def _run(bound: Any, pool: int, repeats: int, pools_each: int) -> dict[str, list[float]]:
    streams = [_stream(count, bound, pool, count * pools_each) for count in SCORERS]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run_in_workers(_arms, {"repeats": repeats, "out": file.name}, streams)
        found: dict[str, list[float]] = json.loads(Path(file.name).read_text())
    return found


def _stream(count: int, bound: Any, pool: int, pools: int) -> SelectiveStream:
    rng = np.random.default_rng(0)
    rows = {
        "x": rng.normal(size=(pools * pool, 4)).astype(np.float32),
        "label": rng.integers(2, size=pools * pool),
    }
    return SelectiveStream(
        rows,
        model=_net,
        forward=_sleepy,
        loss=cross_entropy("label"),
        selector=SelectiveBackprop(),
        scoring=Scoring(
            num_actors=count, batch_size=pool, num_cpus=0.25, max_staleness_steps=bound
        ),
        data=Data(inputs=("x",), num_readers=0),
        name=str(count),
    )


def _net() -> nn.Module:
    return nn.Linear(4, 2)


def _sleepy(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    if not model.training:
        time.sleep(SLEEP_S * len(batch["x"]) / POOL)  # a pool may be scored in several calls
    output: torch.Tensor = model(batch["x"])
    return output


def _arms(config: dict[str, Any]) -> None:
    found: dict[str, list[float]] = {str(count): [] for count in SCORERS}
    for _ in range(config["repeats"]):
        for name, rates in found.items():
            stream = get_stream(name)
            model = stream.task.build(0)
            rows = stream.spec.source.num_rows
            trace = Trace(rows * 4 // 10, rows * 9 // 10)  # by then all scorers have started
            nothing = torch.zeros(BATCH)
            for batch in stream.iter_batches(batch_size=BATCH, epochs=1, model=model):
                stream.reduce(nothing, batch)
                stream.step(model)
                trace.note(stream.num_scored, stream.wait_seconds)
            rates.append(trace.rows / trace.seconds)
    Path(config["out"]).write_text(json.dumps(found))
