"""A finished run judged again, on the rows that it held out or on others: `raysb eval`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch import nn

from raysb.config import Config, load
from raysb.device import device_here
from raysb.errors import DataError, ModelError, RunDirectoryError
from raysb.losses import build_loss
from raysb.metrics import confusion_matrix
from raysb.models import TrainedModel, bare, build_from, load_model
from raysb.prepare import open_data
from raysb.report.directory import CONFIG
from raysb.report.records import read_metrics
from raysb.scan.foreign import refuse_foreign_code
from raysb.schema import Source
from raysb.source.open import Sources
from raysb.task import Task, TensorBatch, inputs
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange

FIGURES = ("eval/error", "eval/loss")


@dataclass(frozen=True)
class ClassError:
    """What a model makes of the rows of one class."""

    label: int
    num_rows: int
    num_wrong: int

    @property
    def error(self) -> float:
        """Share of its rows that are taken for another class, in [0, 1]."""
        return self.num_wrong / self.num_rows


@dataclass(frozen=True)
class Confusion:
    """Rows of a class that a model takes for another one."""

    label: int
    prediction: int
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What evaluating a run gave.

    Args:
        run: The run directory.
        rows: Which rows, in words.
        num_rows: How many.
        metrics: `eval/loss` and, where right and wrong can be told apart, `eval/error` in [0, 1].
        classes: By label, those that occur; empty where rows have no class.
        confusions: Which class is taken for which, the most frequent first; empty where outputs are
            not one logit a class.
        recorded: What the run itself says of the same rows then; `None` of other rows.
        when: In words, the evaluation of the run that this one repeats.
    """

    run: str
    rows: str
    num_rows: int
    metrics: dict[str, float]
    classes: tuple[ClassError, ...]
    confusions: tuple[Confusion, ...]
    recorded: dict[str, float] | None
    when: str = "at the end of the run"

    @property
    def worst(self) -> ClassError | None:
        """The class with the largest error, the first of several."""
        return max(self.classes, key=lambda each: each.error, default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, text and lists of them."""
        classes = [
            {"class": c.label, "rows": c.num_rows, "wrong": c.num_wrong, "error": c.error}
            for c in self.classes
        ]
        return {
            "run": self.run,
            "data": self.rows,
            "rows": self.num_rows,
            **{k: v if math.isfinite(v) else None for k, v in self.metrics.items()},
            "classes": classes,
            "confusions": [
                {"class": c.label, "prediction": c.prediction, "rows": c.num_rows}
                for c in self.confusions
            ],
            "worst_class": None if self.worst is None else self.worst.label,
            "recorded": self.recorded,
        }


class ByClass:
    """Counts right and wrong predictions by class, while an evaluation asks for them.

    Args:
        rule: `(outputs, batch) -> bool [B]`, whether each prediction was right.
        target: Column of the class, integers from 0; rows with a negative one have none.
    """

    def __init__(self, rule: Any, target: str) -> None:
        self._rule = rule
        self._target = target
        self._counts = np.zeros((0, 2), np.int64)  # of each class: rows, wrong ones
        self._pairs: list[npt.NDArray[np.int64]] = []  # label and prediction of the wrong rows

    def __call__(self, outputs: Any, batch: TensorBatch) -> torch.Tensor:
        """What the rule says, counted."""
        right: torch.Tensor = self._rule(outputs, batch)
        labels = batch[self._target]
        if labels.dim() == 1 and not labels.is_floating_point():
            self._count(labels.cpu().numpy(), right.bool().cpu().numpy())
            if isinstance(outputs, torch.Tensor) and outputs.dim() == 2 and outputs.shape[1] > 1:
                wrong = (labels >= 0) & ~right.bool()
                pairs = torch.stack([labels.long(), outputs.argmax(1)])[:, wrong]
                self._pairs.append(pairs.cpu().numpy())
        return right

    def _count(self, labels: npt.NDArray[np.integer], right: npt.NDArray[np.bool_]) -> None:
        known = labels >= 0
        size = max(len(self._counts), int(labels.max(initial=-1)) + 1)
        counts = [np.bincount(labels[m], minlength=size) for m in (known, known & ~right)]
        self._counts = np.pad(self._counts, ((0, size - len(self._counts)), (0, 0)))
        self._counts += np.stack(counts, axis=1)

    @property
    def classes(self) -> tuple[ClassError, ...]:
        """The classes that occurred."""
        found = enumerate(self._counts.tolist())
        return tuple(ClassError(label, rows, wrong) for label, (rows, wrong) in found if rows)

    @property
    def confusions(self) -> tuple[Confusion, ...]:
        """The pairs that occurred, the most frequent first."""
        if not any(pairs.size for pairs in self._pairs):
            return ()
        labels, predicted = np.concatenate(self._pairs, axis=1)
        classes = np.union1d(labels, predicted)
        counts = confusion_matrix(labels, predicted, labels=classes)
        found = [
            Confusion(int(classes[i]), int(classes[j]), int(counts[i, j]))
            for i, j in zip(*np.nonzero(counts), strict=True)
        ]
        return tuple(sorted(found, key=lambda each: -each.num_rows))


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A finished run: its model, and rows to show it.

    Args:
        config: The run's, with the flags.
        task: How rows reach the model, and the loss.
        module: The model with its weights, on its device.
        source: The rows.
        rows: Which rows, in words.
        own_rows: Whether they are those of the run, not others that a flag names.
    """

    config: Config
    task: Task
    module: nn.Module
    source: Source
    rows: str
    own_rows: bool


def open_run(
    run: str, flags: Sequence[str] = (), *, train: bool = False, best: bool = False
) -> OpenedRun:
    """Open a run's weights with its own configuration, and the rows that it tested on.

    Args:
        run: Directory of a run of `raysb train`.
        flags: Settings that take the place of the run's: `--data.test PATH` names other rows.
        train: The rows that it was trained on, instead.
        best: The weights of its best evaluation, instead of the last.

    Raises:
        RunDirectoryError: This is no such directory, or it holds no weights.
        ModelError: Model or loss are the user's own code and no flag names them, or the weights
            cannot be read.
        DataError: The rows cannot be used, or none were held out.
        ValueError: A setting that cannot be used.
    """
    folder = Path(run)
    config, own_rows = _read(folder, flags)
    refuse_foreign_code(config, flags)
    sources, source, named = _open_training_rows(config) if train else open_test_rows(config)
    task = _task(config, sources)
    if config.train.num_threads:
        torch.set_num_threads(config.train.num_threads)
    try:
        trained = load_model(folder, model=lambda: task.build(config.run.seed), best=best)
    except SafetensorError as error:
        raise ModelError(
            f"{folder}: its weights are no safetensors file, or not all of one ({error}): copy the "
            "directory again, or train again"
        ) from error
    module = trained.module if isinstance(trained, TrainedModel) else trained
    module.to(device_here(config.train.use_gpu))
    return OpenedRun(
        config=config, task=task, module=module, source=source, rows=named, own_rows=own_rows
    )


def evaluate_run(run: str, flags: Sequence[str] = (), *, best: bool = False) -> Evaluated:
    """Evaluate a run's weights with its own configuration.

    Args:
        run: Directory of a run of `raysb train`.
        flags: Settings that take the place of the run's: `--data.test PATH` names other rows.
        best: The weights of its best evaluation, instead of the last.

    Raises:
        RaysbError: The run, its model or the rows cannot be used, as by `open_run`.
        ValueError: A setting that cannot be used.
    """
    opened = open_run(run, flags, best=best)
    config, task = opened.config, opened.task
    by_class = ByClass(task.correct, config.data.target) if config.data.target else None
    if task.correct is not None and by_class is not None:
        task = replace(task, correct=by_class)
    metrics = evaluate(
        task,
        opened.module,
        opened.source,
        Exchange(alone=True),
        batch_size=config.eval.batch_size,
    )
    return Evaluated(
        run=run,
        rows=opened.rows,
        num_rows=opened.source.num_rows,
        metrics=metrics,
        classes=by_class.classes if by_class is not None else (),
        confusions=by_class.confusions if by_class is not None else (),
        recorded=_recorded(Path(run), best=best) if opened.own_rows else None,
        when="at the best evaluation" if best else "at the end of the run",
    )


def open_test_rows(config: Config) -> tuple[Sources, Source, str]:
    """What a resolved configuration tests on, opened; the training set only where it holds it.

    Returns:
        What is known of the rows, the rows to test on, and their name for people.

    Raises:
        DataError: The rows cannot be used, or none were held out.
        FileNotFoundError: They are not there.
    """
    data = config.data
    opened, alone = data, data.test is not None
    if data.test is not None:  # the training set may lie elsewhere by now
        opened = replace(data, train=data.test, test=None, test_fraction=0.0)
    try:
        sources = open_data(replace(config, data=opened))
    except (DataError, FileNotFoundError) as error:
        if not alone:
            raise
        raise type(error)(str(error).replace("data.train", "data.test")) from error
    if sources.eval is not None:
        return sources, sources.eval, f"the rows held out of {opened.train}"
    if not alone:
        raise DataError(
            f"data.train={data.train}, data.test=none: the run held no rows out, so there are none "
            "to evaluate on; name some with --data.test PATH"
        )
    return sources, sources.train, str(data.test)


def _open_training_rows(config: Config) -> tuple[Sources, Source, str]:
    sources = open_data(config)
    return sources, sources.train, f"the training rows of {config.data.train}"


def _read(folder: Path, flags: Sequence[str]) -> tuple[Config, bool]:
    """The run's configuration with the flags, and whether it tests on the run's own rows."""
    file = folder / CONFIG
    if not file.is_file():
        raise RunDirectoryError(
            f"{folder} holds no {CONFIG}: give the directory that `raysb train` named at its end; "
            "of a run from Python, raysb.load_model(path, model=...) gives the model"
        )
    own = load(file, of_run=True)
    # a test set that is named takes the place of a fraction that was held out
    named = any(flag.removeprefix("--").startswith("data.test") for flag in flags)
    config = load(file, [*(["--data.test_fraction=0"] if named else []), *flags], of_run=True)
    return config, config.data == own.data


def _task(config: Config, sources: Sources) -> Task:
    data = config.data
    loss = build_loss(config.train.loss, data.target, config.train.loss_args)
    settings = bare(config.model)  # what it starts from lies in the run's weights
    return Task(
        model=build_from(replace(config, model=settings), sources.shapes[data.inputs[0]]),
        forward=inputs(*data.inputs, mean=data.mean, std=data.std),
        loss=loss,
        correct=getattr(loss, "correct", None),
    )


def _recorded(folder: Path, *, best: bool = False) -> dict[str, float] | None:
    """The figures of the run's last evaluation, or of its best one, the newest of equal ones."""
    try:
        lines = read_metrics(folder)
    except RunDirectoryError:
        return None
    found = [
        {name: line[name] for name in FIGURES if line.get(name) is not None}
        for line in reversed(lines)
        if line.get("kind") in ("epoch", "eval") and FIGURES[1] in line
    ]
    if best:
        found.sort(key=lambda figures: next(iter(figures.values()), math.inf))
    return found[0] if found else None
