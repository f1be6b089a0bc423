"""`raysb plan`: measure, predict every selector, judge, recommend."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.config import Config, kind_of
from raysb.inspect_history.records import RunHistory, read_history
from raysb.job import Silent, TrainingJob
from raysb.planning.advice import FRONTIER, Line, Recommendation, line, recommend, verdict
from raysb.planning.costs import Processors, RowCosts, best_split, gain_apart
from raysb.planning.labels import Labels, judge_labels
from raysb.planning.measure import SECONDS, Measured, measure
from raysb.planning.workloads import named, works_of
from raysb.prepare import build_job, has_classes, open_data, resolve
from raysb.schema import Ids, Source, rows_of
from raysb.selection import (
    SELECTORS,
    ImportanceSampling,
    SelectiveBackprop,
    Selector,
    StaleSelectiveBackprop,
)
from raysb.source.spans import ids_and_target
from raysb.training.strategies import parallel_steps

ON_CLEAN_DATA = {  # what may be recommended by cost: the methods of the frontier's headline
    "--selector.kind stale_selective_backprop --selector.beta 2": StaleSelectiveBackprop(beta=2.0),
    "--selector.beta 2": SelectiveBackprop(beta=2.0),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was measured and what follows.

    Args:
        model: Its name.
        num_rows: Rows of the data.
        epochs: Of the run.
        measured: Seconds a row.
        processors: Scorers and trainers as configured, and the cores at hand.
        chosen: The configured selector.
        lines: All selectors at their defaults, and some variants.
        split: The best scorers and trainers for `chosen` among the cores; none: there is no choice.
        split_gain: Uniform training on all of these cores over that.
        labels: What a history says of them; none: it was not asked.
        recommended: A configuration.
        verdict: Sentences.
    """

    model: str
    num_rows: int
    epochs: int
    measured: Measured
    processors: Processors
    chosen: Line
    lines: tuple[Line, ...]
    split: Processors | None
    split_gain: float | None
    labels: Labels | None
    recommended: Recommendation
    verdict: tuple[str, ...]

    @property
    def costs(self) -> RowCosts:
        """Of a row that is scored by its loss."""
        return self.measured.costs()

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, text, and lists and dicts of them."""
        found = asdict(self)
        costs = {"ratio": self.costs.ratio, "break_even": self.costs.break_even}
        return {**costs, **found, "not_in_it": FRONTIER}


def plan(
    config: Config, *, history: str | os.PathLike[str] | None = None, seconds: float = SECONDS
) -> Plan:
    """Measure on the configuration's rows and model, and say whether selecting pays.

    Nothing is written, and Ray is not started.

    Args:
        config: As a run would take it.
        history: Directory of a run on these data, whose losses say whether labels are wrong.
        seconds: To measure for.

    Raises:
        RaysbError: The data or the model do not allow the run, or there is no history.
        FileNotFoundError: There is no such directory, or no such data.
        ValueError: A setting cannot be used.
    """
    past = None if history is None else read_history(Path(history))  # before data are opened
    sources = open_data(config)
    labels = None if past is None else labels_of(past, sources.train, config)
    config = resolve(replace(config, run=replace(config.run, loggers=())), sources)
    job = build_job(config, sources, Silent(), False)
    measured = measure(job, seconds=seconds)
    return predict(config, job, measured, labels)


def labels_of(history: RunHistory, source: Source, config: Config) -> Labels:
    """What the history of a run says of its labels.

    Args:
        history: Of a run.
        source: Rows that the labels of its ids are looked up in.
        config: What the rows are.
    """
    if not has_classes(config) or not history.judged:
        return judge_labels(history.samples, judged=False)
    classes = _classes_of(history.samples["id"], source, config.data.target)
    found = judge_labels(history.samples, classes=classes)
    return replace(found, num_epochs=history.num_epochs)


def _classes_of(ids: Ids, source: Source, target: str | None) -> npt.NDArray[np.int64] | None:
    """The label of each id [n]; none where a row has not one integer, or an id is not there."""
    there, labels = ids_and_target(source, target)
    if labels is None or labels.dtype.kind == "f":
        return None
    rows, known = rows_of(ids, there)
    return labels[rows].astype(np.int64) if known.all() else None


def predict(config: Config, job: TrainingJob, measured: Measured, labels: Labels | None) -> Plan:
    """All that follows from the measurement; times the selectors' own part."""
    processors = _processors(config, measured)
    rows, epochs = job.spec.source.num_rows, config.train.epochs

    def line_of(kind: str, selector: Selector, name: str | None = None) -> Line:
        works = works_of(selector, epochs, rows)
        known = measured.costs_of(selector)
        return line(name or named(kind, selector), works, known, processors, rows)

    chosen = line_of(kind_of(config), config.selector)
    lines = [line_of(kind, each, name) for kind, each, name in _candidates(measured)]
    costs = measured.costs_of(config.selector)
    works = works_of(config.selector, epochs, rows)
    split = best_split(works, costs, int(processors.cores)) if chosen.work.scored else None
    return Plan(
        model=config.model.name,
        num_rows=rows,
        epochs=epochs,
        measured=measured,
        processors=processors,
        chosen=chosen,
        lines=tuple(lines),
        split=split,
        split_gain=None if split is None else gain_apart(works, costs, split),
        labels=labels,
        recommended=recommend(
            {flags: line_of("", each) for flags, each in ON_CLEAN_DATA.items()},
            labels,
            measured.costs(),
        ),
        verdict=tuple(verdict(chosen, costs, processors)),
    )


def _candidates(measured: Measured) -> Iterator[tuple[str, Selector, str | None]]:
    """Every kind at its defaults, and what differs much in cost."""
    for kind, cls in SELECTORS.items():
        if cls is ImportanceSampling:
            if measured.bound is not None:
                yield kind, cls(), f"{kind} on"
                yield kind, ImportanceSampling(tau_threshold=1e9), f"{kind} off"
            continue
        yield kind, cls(), None
        if cls in (SelectiveBackprop, StaleSelectiveBackprop):
            yield kind, cls(beta=2.0), None


def _processors(config: Config, measured: Measured) -> Processors:
    """Scorers and trainers of the configuration, and what uniform training could use instead."""
    # as many as there may be: the fewest are what a run begins with, not what it comes to
    scorers, trainers = config.scoring.max_actors, parallel_steps(config.train)
    if measured.device == "cpu":
        return Processors(
            scorers=scorers, trainers=trainers, cores=max(cores_here() // measured.threads, 1)
        )
    # a GPU that scorers share is one that could train; CPUs beside it are not
    shared = scorers * config.scoring.num_gpus / config.train.num_gpus
    return Processors(scorers=scorers, trainers=trainers, uniform=trainers + shared)


def cores_here() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
