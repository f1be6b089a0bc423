"""One cell of the frontier: one method, trained once at one budget of cost with one seed."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import frontier_rows
import numpy as np
import torch

import raysb.selection
from raysb.errors import RaysbError
from raysb.local import LocalStream
from raysb.losses import cross_entropy
from raysb.nn.registry import build_model
from raysb.nn.settings import Model
from raysb.optim.registry import build_optimizer
from raysb.schema import ID, Batch, Floats, take
from raysb.scoring.forward import score
from raysb.scoring.settings import Scoring
from raysb.selection.adjustments import Adjustments
from raysb.source.irreducible import IRREDUCIBLE_LOSS
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.task import Task
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop
from raysb.training.memory import keep_freed_pages
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

BATCH = 64
CHANNELS = (16, 32, 64)
HALF = 0.5  # of their height and width at which some methods score pictures
FLAT = 0.7  # share of a run before the learning rate falls
PAID = ("cost", "num_scored", "num_backpropped")
MOST_PASSES = 40  # over the data per unit of cost: a run ends by cost, not by epochs


@dataclass(frozen=True)
class Holdout:
    """Rows held out for a model that is trained first; its losses of the others are irreducible.

    All of it is paid from the run's own budget: the rows back-propagated for that model, and one
    scoring of each of the others. The rows are of the run's own, wrong labels included, and are not
    trained on again. Both models start from the same weights.

    Args:
        rows: Share of the run's rows.
        cost: Share of its budget that training on them takes.
    """

    rows: float = 0.1
    cost: float = 0.2


@dataclass(frozen=True)
class Method:
    """What decides which rows are trained.

    Args:
        selector: Name of a class in `raysb.selection`.
        args: Its arguments.
        scoring: Arguments of `raysb.Scoring`.
        rows: Of `frontier_rows.REDUCTIONS`, done before training and not charged.
        adjust: Arguments of `raysb.Adjustments`.
        holdout: Where irreducible losses come from; none: the method needs none.
    """

    selector: str
    args: Mapping[str, Any] = field(default_factory=dict)
    scoring: Mapping[str, Any] = field(default_factory=dict)
    rows: str = "every"
    adjust: Mapping[str, Any] = field(default_factory=dict)
    holdout: Holdout | None = None

    def build(self) -> raysb.selection.Selector:
        """A selector of its own."""
        selector: raysb.selection.Selector = getattr(raysb.selection, self.selector)(**self.args)
        return selector


@dataclass(frozen=True)
class Setup:
    """What all cells share.

    Args:
        data: Folder with parquet; `None`: the 5,000 digits.
        limit: Training rows at most.
        scoring_cost: r, cost of a scored row where a trained one costs 1.
        half_cost: The same where pictures are scored at half their height and width.
    """

    data: str | None
    limit: int | None
    scoring_cost: float
    half_cost: float = 0.0

    def cost_of(self, method: Method) -> float:
        """What a row that a method scores costs."""
        return self.half_cost if method.scoring.get("image_scale") == HALF else self.scoring_cost


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        regime: Of `frontier_rows.REGIMES`.
        method: Its name.
        cost: Budget in epochs of uniform training.
        seed: Of order, augmentation, draws and initial weights.
        lr: Learning rate before the schedule.
    """

    regime: str
    method: str
    cost: float
    seed: int
    lr: float

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.regime}-{self.method}-cost{self.cost:g}-seed{self.seed}-lr{self.lr:g}.json"


class PlateauThenLinear(Budget):
    """The full learning rate for 70 % of the cost, then in a straight line to 0."""

    def factor(self, progress: float) -> float:
        """Factor on the learning rate at that progress."""
        return min(1.0, (1.0 - progress) / (1.0 - FLAT))


@cache
def _digits(data: str | None, limit: int | None) -> frontier_rows.Digits:
    return frontier_rows.load(data, limit)


@cache
def _test_rows(data: str | None, limit: int | None) -> Batch:
    image, label = frontier_rows.test_rows(_digits(data, limit))
    return {"image": image, "label": label, ID: np.arange(len(label))}


@cache
def rows_of(setup: Setup, regime: str) -> frontier_rows.Rows:
    """The rows of a regime; kept, since every cell of it has the same."""
    digits = _digits(setup.data, setup.limit)
    return frontier_rows.REGIMES[regime](digits.image, digits.label)


def stream_of(
    rows: frontier_rows.Rows, method: Method, seed: int, irreducible: Floats | None = None
) -> StreamSpec:
    """Rows, net, loss and selector of a run; `irreducible` [N] is a loss of each row."""
    data = Data(augment="shift")
    columns = _columns(rows)
    if irreducible is not None:
        columns[IRREDUCIBLE_LOSS] = irreducible
    sources = open_sources(data, seed=seed, train=columns, num_classes=frontier_rows.NUM_CLASSES)
    net = Model(name="cnn", norm="group", args={"channels": list(CHANNELS)})
    return StreamSpec.of(
        sources,
        data,
        model=partial(
            build_model,
            net,
            image_shape=sources.shapes["image"],
            num_classes=frontier_rows.NUM_CLASSES,
        ),
        loss=cross_entropy("label"),
        selector=method.build(),
        scoring=Scoring(**method.scoring),
        adjust=Adjustments(**method.adjust),
        seed=seed,
    )


def _columns(rows: frontier_rows.Rows) -> Batch:
    return {"image": rows.image, "label": rows.label, ID: np.arange(len(rows))}


def training_of(cell: Cell, method: Method, setup: Setup, epochs: int) -> Training:
    """Limits, learning rate and what a scored row costs."""
    return Training(
        epochs=epochs,
        batch_size=BATCH,
        lr=cell.lr,
        schedule="constant",
        schedule_axis="cost",
        max_cost=cell.cost,
        scoring_cost=setup.cost_of(method),
        num_threads=1,
    )


def run(cell: Cell, method: Method, setup: Setup) -> dict[str, Any]:
    """Train a cell and judge it; `failed` holds the reason where it could not be trained."""
    keep_freed_pages()
    torch.set_num_threads(1)
    wall, used = time.perf_counter(), time.process_time()
    whole = rows_of(setup, cell.regime)
    rows = frontier_rows.REDUCTIONS[method.rows](whole)
    try:
        found = _train(cell, method, setup, rows, len(whole))
    except RaysbError as error:
        found = {"failed": f"{type(error).__name__}: {error}"}
    seconds = {"seconds": time.perf_counter() - wall, "cpu_s": time.process_time() - used}
    return {"num_rows": len(rows), "unit_rows": len(whole), **found, **seconds}


def _train(
    cell: Cell, method: Method, setup: Setup, rows: frontier_rows.Rows, unit: int
) -> dict[str, Any]:
    paid: dict[str, Any] = dict.fromkeys(PAID, 0)
    irreducible = None
    if method.holdout is not None:
        rows, irreducible, paid = _hold_out(cell, method.holdout, setup, rows, unit)
    left = replace(cell, cost=cell.cost - paid["cost"])
    task, model, found = _fit(left, method, setup, rows, unit, irreducible)
    found |= {name: found[name] + paid[name] for name in PAID}
    return {**found, **judge(task, model, _test_rows(setup.data, setup.limit))}


def _hold_out(
    cell: Cell, holdout: Holdout, setup: Setup, rows: frontier_rows.Rows, unit: int
) -> tuple[frontier_rows.Rows, Floats, dict[str, Any]]:
    """The rows that are left, their losses under a model of the others, and what that cost."""
    aside, rest = frontier_rows.hold_out(rows, holdout.rows, cell.seed)
    first = replace(cell, cost=holdout.cost * cell.cost)
    task, model, found = _fit(first, Method("Uniform"), setup, aside, unit)
    losses = score(task, model, _columns(rest)).losses
    scored = setup.scoring_cost * len(rest) / unit
    paid = (found["cost"] + scored, len(rest), found["num_backpropped"])
    return rest, losses, dict(zip(PAID, paid, strict=True))


def _fit(
    cell: Cell,
    method: Method,
    setup: Setup,
    rows: frontier_rows.Rows,
    unit: int,
    irreducible: Floats | None = None,
) -> tuple[Task, torch.nn.Module, dict[str, Any]]:
    """Train until the cost of the cell is spent; the model, and figures of the run."""
    spec = stream_of(rows, method, cell.seed, irreducible)
    epochs = math.ceil(cell.cost * MOST_PASSES * unit / len(rows))
    training = training_of(cell, method, setup, epochs)
    model = spec.task.build(spec.seed)
    torch.manual_seed(spec.seed)
    trained = _Trained(rows)
    stream = LocalStream(spec, on_step=trained)
    learner = Learner(spec.task, model, build_optimizer(model, training))
    budget = PlateauThenLinear(training=training, rows_per_epoch=unit)
    end = Loop(learner, stream, training, Evaluation(), budget, Hooks()).run()
    passed = stream.fraction * epochs * len(rows)
    return (
        spec.task,
        model,
        {
            **{key: end[key] for key in (*PAID, "stopped_by")},
            "passes": passed / len(rows),
            "kept_fraction": min(stream.num_backpropped / passed, 1.0),
            "max_age_steps": end["max_age_steps"] if spec.scored else None,
            "mean_age_steps": end["mean_age_steps"],
            **trained.shares(),
        },
    )


class _Trained:
    """Counts what is trained: copies, and rows with a wrong label."""

    def __init__(self, rows: frontier_rows.Rows) -> None:
        self._marks = {"wrong": rows.wrong, "copied": rows.copied}
        self._sums = dict.fromkeys(self._marks, 0)
        self._count = 0

    def __call__(self, step: int, rank: int, batch: Batch) -> None:
        self._count += len(batch[ID])
        for name, mark in self._marks.items():
            self._sums[name] += int(mark[batch[ID]].sum())

    def shares(self) -> dict[str, float]:
        """Of the trained rows, and of all."""
        trained = {f"{name}_trained": n / max(self._count, 1) for name, n in self._sums.items()}
        return {**trained, **{f"{k}_rows": float(m.mean()) for k, m in self._marks.items()}}


def judge(task: Task, model: torch.nn.Module, test: Batch) -> dict[str, Any]:
    """Error and loss on the test rows, the first half real and the second moved."""
    scores = score(task, model, test)
    assert scores.correct is not None
    wrong = 1.0 - scores.correct.astype(np.float64)
    half = len(wrong) // 2
    by_class = np.bincount(test["label"], wrong) / np.bincount(test["label"])
    return {
        "error": float(wrong.mean()),
        "error_real": float(wrong[:half].mean()),
        "error_moved": float(wrong[half:].mean()),
        "loss": float(scores.losses.mean(dtype=np.float64)),
        "worst_class_error": float(by_class.max()),
    }


def measure_ratio(setup: Setup, repeats: int = 40, rows: int = 1024) -> dict[str, float]:
    """CPU seconds that a row takes to be read, scored and trained on, medians; and r.

    The same rows, read before, for scoring and for training, which alternate in one thread.
    """
    keep_freed_pages()
    torch.set_num_threads(1)
    spec = stream_of(rows_of(setup, "clean"), Method("Uniform"), 0)
    model = spec.task.build(0)
    optimizer = build_optimizer(model, Training(lr=0.01))
    plan = replace(spec.plan(BATCH, 1), pool_rows=min(rows, spec.source.num_rows) // BATCH * BATCH)
    batch = spec.read(plan, 0)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: spec.read(plan, 0),
        "score": lambda: score(spec.task, model, batch),
        "score_half": lambda: score(spec.task, model, batch, image_scale=HALF),
        "train": lambda: _train_once(spec.task, model, optimizer, batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(repeats):
        for name, act in acts.items():
            start = time.process_time()
            act()
            seconds[name].append((time.process_time() - start) / plan.pool_rows)
    found = {f"{name}_s": median(values) for name, values in seconds.items()}
    for name, scored in (("ratio", "score"), ("half_ratio", "score_half")):
        pairs = zip(seconds[scored], seconds["train"], strict=True)
        found[name] = median(score_s / train_s for score_s, train_s in pairs)
    return found


def _train_once(
    task: Task, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rows: Batch
) -> None:
    """An optimizer step for each batch, as `Learner` does it."""
    for start in range(0, len(rows[ID]), BATCH):
        tensors = task.tensors(take(rows, slice(start, start + BATCH)), torch.device("cpu"))
        terms = task.training_losses(model, tensors)
        loss = torch.stack(list(terms.values())).sum(dim=0).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(draft, path)


def settings(cell: Cell, method: Method, setup: Setup) -> dict[str, Any]:
    """All that a cell's figures depend on; a cell of other settings is not taken over."""
    later = {"adjust": dict(method.adjust), "holdout": method.holdout and asdict(method.holdout)}
    return {
        **asdict(cell),
        "data": "parquet" if setup.data else "mnist5k",
        "limit": setup.limit,
        "scoring_cost": setup.cost_of(method),
        "selector": repr(method.build()),
        "scoring": dict(method.scoring),
        "rows": method.rows,
        **{name: value for name, value in later.items() if value},  # cells from before lack them
    }


def read(path: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """A finished cell, if it is there and of these settings."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    return record if record["settings"] == json.loads(json.dumps(wanted)) else None


def work(cell: Cell, method: Method, setup: Setup, folder: str) -> dict[str, Any]:
    """In a worker process: run a cell and leave its file."""
    record = {"settings": settings(cell, method, setup), **run(cell, method, setup)}
    write(Path(folder) / cell.file, record)
    return record
