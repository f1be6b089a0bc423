"""Is `raysb plan` right? Its predictions beside epochs that were trained, in six cases.

    python pipelines/benchmarks/plan_check.py [--repeats 5] [--out pipelines/records]

A small cnn and an mlp on the 5,000 digits `mnist5k`, with .1, .5 and .9 of the rows kept: by
`SelectiveBackprop(target_fraction=...)`, which scores every row, and by `RandomSubset`, which
scores none. CPU seconds of one process with one thread, medians; prediction, uniform training and
the others alternate. Shown is whether an epoch pays: x is uniform's seconds over the selector's.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import torch
from bench import records

from raysb.config import load
from raysb.job import Silent, TrainingJob
from raysb.layout import aligned
from raysb.local import LocalStream
from raysb.optim.registry import build_optimizer
from raysb.planning.costs import gain, mean_work, seconds_together
from raysb.planning.measure import measure
from raysb.planning.workloads import works_of
from raysb.prepare import build_job, open_data, resolve
from raysb.selection import RandomSubset, SelectiveBackprop, Selector, Uniform
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation

EPOCHS = {"cnn": 2, "mlp": 12}  # of a run
MEASURE_S = 5.0
KEPT = (0.1, 0.5, 0.9)
HEAD = ("model", "selector", "kept", "realised", "predicted s", "measured s", "ratio")
HEAD += ("predicted x", "measured x", "sign")


@dataclass(frozen=True)
class Row:
    """A case, as predicted and as it was."""

    model: str
    selector: str
    kept: float
    realised: float
    predicted_s: float
    measured_s: float
    predicted_gain: float
    measured_gain: float

    def cells(self) -> tuple[str, ...]:
        """As text."""
        right = (self.predicted_gain > 1) == (self.measured_gain > 1)
        sign = "-" if self.selector == "uniform" else "right" if right else "WRONG"
        shown = (self.predicted_s, self.measured_s, self.predicted_s / self.measured_s)
        shown += (self.predicted_gain, self.measured_gain)
        kept = (f"{self.kept:.1f}", f"{self.realised:.3f}")
        return (self.model, self.selector, *kept, *(f"{n:.3f}" for n in shown), sign)


def job_of(model: str) -> TrainingJob:
    """What `raysb plan --model.name ...` takes, with one thread on the CPU."""
    flags = ["--model.name", model, "--train.use_gpu", "false", "--train.num_threads", "1"]
    config = load(None, flags)
    sources = open_data(config)
    config = resolve(replace(config, run=replace(config.run, loggers=())), sources)
    return build_job(config, sources, Silent(), False)


def epoch(job: TrainingJob, selector: Selector, epochs: int) -> tuple[float, float]:
    """CPU seconds of an epoch, and the share of the rows that was trained."""
    spec = replace(job.spec, selector=selector)
    training = replace(job.training, epochs=epochs)
    model = spec.task.build(0)
    learner = Learner(spec.task, model, build_optimizer(model, training))
    stream = LocalStream(spec)
    budget = Budget(training=training, rows_per_epoch=spec.source.num_rows)
    start = time.process_time()
    Loop(learner, stream, training, Evaluation(), budget, Hooks()).run()
    seconds = time.process_time() - start
    return seconds / epochs, stream.num_backpropped / (epochs * spec.source.num_rows)


def cases() -> Iterator[tuple[str, float, Selector]]:
    """Name, kept fraction and selector, uniform first."""
    yield "uniform", 1.0, Uniform()
    for kept in KEPT:
        yield "selective_backprop", kept, SelectiveBackprop(target_fraction=kept)
    for kept in KEPT:
        yield "random_subset", kept, RandomSubset(fraction=kept)


def check(model: str, repeats: int) -> list[Row]:
    """Predict and train in turn: what else the machine does then weighs on both."""
    torch.set_num_threads(1)
    job, epochs = job_of(model), EPOCHS[model]
    rows = job.spec.source.num_rows
    found: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    for _ in range(repeats):
        measured, uniform = measure(job, seconds=MEASURE_S), 0.0
        for name, kept, selector in cases():
            seconds, realised = epoch(job, selector, epochs)
            uniform = uniform or seconds
            costs, work = measured.costs_of(selector), mean_work(works_of(selector, epochs, rows))
            predicted = rows * seconds_together(work, costs), gain(work, costs)
            result = (realised, predicted[0], seconds, predicted[1], uniform / seconds)
            found.setdefault((name, kept), []).append(result)
    return [
        Row(model, *case, *map(median, zip(*results, strict=True)))
        for case, results in found.items()
    ]


def write(folder: Path, table: list[Row], context: dict[str, Any]) -> list[Path]:
    """The table as Markdown and as JSON."""
    hardware = records.hardware()
    path = folder / f"plan_check_{hardware['cores']}cpu_{datetime.now(UTC):%Y-%m}.json"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"hardware": hardware, **context, "rows": [row.__dict__ for row in table]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    head = f"`{context['command']}`, {hardware['cores']} cores of {hardware['cpu']}, "
    head += f"commit {context['commit']}, {context['date']}, load {context['load_before']}."
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in table)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    about = (__doc__ or "").split("\n\n")[2].strip()
    (page := path.with_suffix(".md")).write_text(f"# plan_check\n\n{head}\n\n{about}\n\n{text}\n")
    return [path, page]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=records.ROOT / "pipelines" / "records")
    given, context = parser.parse_args(), records.context(sys.argv[1:])
    context["command"] = context["command"].replace("throughput", "plan_check")
    table = [row for model in EPOCHS for row in check(model, given.repeats)]
    print("\n".join(aligned([HEAD, *(row.cells() for row in table)], right=range(2, 9))))
    for path in write(given.out, table, context):
        print(f"written: {path.name}")
