"""`raysb score` and `raysb.score`: the scores of every row of a data set, in a parquet file."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raysb.cluster import connected
from raysb.config import Config, load
from raysb.device import device_here
from raysb.losses import LOSSES, CrossEntropy, build_loss
from raysb.models import bare, build_from, plan_of
from raysb.prepare import has_classes, resolve
from raysb.scan.file import ScoreFile, check_out
from raysb.scan.foreign import refuse_foreign_cluster, refuse_foreign_code
from raysb.scan.job import TRIED_ROWS, Scored, ScoreJob, find_columns, score_locally
from raysb.scan.summary import Progress, ScoreSummary, Watch
from raysb.scan.weights import build_with, check_names, find_weights
from raysb.schema import Batch
from raysb.scoring.scores import no_loss
from raysb.scoring.settings import Scoring
from raysb.source.open import Sources, open_sources
from raysb.source.settings import Data
from raysb.source.spans import origin_of
from raysb.task import Forward, PerSampleLoss, Task, inputs

ENGINES = ("ray", "local")


def score(
    *,
    model: Callable[[], nn.Module],
    rows: Any,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Mapping[str, torch.Tensor] | None = None,
    loss: PerSampleLoss | None = None,
    forward: Forward | None = None,
    correct: Callable[..., Any] | None = None,
    collate: Callable[[Batch], Batch] | None = None,
    data: Data | None = None,
    scoring: Scoring | None = None,
    engine: str = "ray",
    seed: int = 0,
    overwrite: bool = False,
    watch: Watch | None = None,
    verbose: bool = False,
) -> ScoreSummary:
    """Score every row once with a model as it is, and write the scores to a parquet file.

    The rows of the file are in the order of the data: file after file, row after row. Nothing of
    it has to fit into memory. Which columns there are: `raysb.scan.file`; what they mean:
    `raysb.scoring.scores`. `data.augment`, `data.test` and `data.test_fraction` have no effect.

    Args:
        model: `() -> nn.Module`, a function that every process can call.
        rows: Parquet (path, folder, glob, URI), arrays by column, a `ray.data.Dataset`, or any
            `Source`.
        out: The file to write.
        weights: A safetensors file, a run directory (`result.path`) or a state dict; `None`: the
            weights that `model` gives.
        loss: `(outputs, batch) -> float [B]`; `None`: rows without right answers, which get a
            prediction, and margin and entropy of outputs [B, C].
        forward: `(model, batch) -> outputs`; by default the model is called with `data.inputs`.
        correct: `(outputs, batch) -> bool [B]`, where the loss has no such method.
        collate: Pads a batch just before the forward pass.
        data: Columns, image size, normalisation, readers. Without `mean` and `std` images are
            normalised by what is measured on these rows, which is right for those of the training.
        scoring: Number, size and precision of the scorers; ages have no meaning here.
        engine: `"ray"`, or `"local"` for one process without Ray, on a GPU where there is one.
        seed: Of weights that the model draws.
        overwrite: Whether a file of this name may be replaced.
        watch: Is told how far the pass is, after every block of rows.
        verbose: Leave Ray's own output on.

    Raises:
        ValueError: `out` cannot be written, or a setting is out of range.
        FileNotFoundError: Rows or weights are not there.
        ModelError: The weights do not fit the model, or the model not the rows.
        DataError: The rows cannot be used.
        ResourceError: There are fewer CPUs or GPUs than asked for.
    """
    began = time.monotonic()
    if engine not in ENGINES:
        raise ValueError(f"score(engine={engine!r}): must be 'ray' or 'local'")
    path = check_out(out, overwrite=overwrite)
    given = data or Data()
    if loss is None:
        given = replace(given, target=None)
    task = Task(
        model=model,
        forward=forward or inputs(*given.inputs),
        loss=loss or no_loss,
        correct=correct,
        collate=collate,
    )
    built = build_with(partial(task.build, seed), weights)
    sources = open_every_row(given, seed, rows, labels=isinstance(loss, CrossEntropy))
    if forward is None:
        normalised = inputs(*given.inputs, mean=sources.mean, std=sources.std)
        task = replace(task, forward=normalised)
    job = _job(task, built, sources, given, scoring or Scoring(), seed, classes=True)
    with _engine(engine, job, None, verbose) as blocks:
        return _write(job, rows, blocks, path, overwrite, watch, began)


def score_configured(
    weights: str,
    flags: Sequence[str],
    *,
    out: str,
    config_file: str | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
    verbose: bool = False,
) -> ScoreSummary:
    """Score `data.train` of a configuration, every row of it, also those that a run held out.

    Args:
        weights: A run directory, whose configuration is taken, or a safetensors file.
        flags: Settings of the command line, which override the file's.
        out: The file to write.
        config_file: Configuration where `weights` is a file.
        overwrite: Whether a file of this name may be replaced.
        watch: Is told how far the pass is.
        verbose: Leave Ray's own output on.

    Raises:
        RunDirectoryError: The directory holds no weights.
        ModelError: The weights do not fit the model, or the model not the rows.
        ValueError: A setting or `out` cannot be used.
    """
    began = time.monotonic()
    path = check_out(out, overwrite=overwrite)
    config, job = configured_job(weights, flags, config_file)
    if config_file is None and Path(weights).is_dir():
        refuse_foreign_cluster(config, flags)
    with _engine(config.engine, job, config.address, verbose) as blocks:
        return _write(job, config.data.train, blocks, path, overwrite, watch, began)


def configured_job(
    weights: str, flags: Sequence[str], config_file: str | None = None
) -> tuple[Config, ScoreJob]:
    """The resolved configuration of `score_configured`, and what is to be scored, tried once.

    Args:
        weights: A run directory, whose configuration is taken, or a safetensors file.
        flags: Settings of the command line, which override the file's.
        config_file: Configuration where `weights` is a file.

    Raises:
        RunDirectoryError: The directory holds no weights.
        ModelError: The weights do not fit the model, or the model not the rows.
        ValueError: A setting cannot be used.
    """
    file, own_config = find_weights(Path(weights))
    of_run = own_config is not None and config_file is None
    config = load(config_file or own_config, flags, of_run=of_run)
    if of_run:
        refuse_foreign_code(config, flags)
    # what it starts from is replaced
    plan = plan_of(Path(weights), config.model) if of_run else config.model.plan
    config = replace(config, model=replace(bare(config.model), plan=plan))
    check_names(config.model, file, alone=own_config is None)
    sources = open_every_row(
        config.data,
        config.run.seed,
        labels=has_classes(config),
        num_classes=config.model.num_classes,
    )
    if config.data.mean is None and sources.mean is not None:
        warnings.warn(
            "data.mean and data.std are not given: images are normalised by what is measured on "
            "the first rows of these data; give those that the weights were trained with",
            stacklevel=3,
        )
    config = resolve(config, sources)
    task = _configured_task(config, sources)
    built = build_with(partial(task.build, config.run.seed), weights)
    job = _job(
        task,
        built,
        sources,
        config.data,
        config.scoring,
        config.run.seed,
        classes=has_classes(config),
    )
    return config, job


def open_every_row(
    data: Data, seed: int, rows: Any = None, *, labels: bool, num_classes: int | None = None
) -> Sources:
    """Every row of the training set, opened: what a run holds out is scored too.

    Args:
        data: Settings; `test`, `test_fraction` and `augment` have no effect.
        seed: Of the orders.
        rows: In place of `data.train`.
        labels: Whether an integer target means classes.
        num_classes: Classes that the model tells apart, where that is given.
    """
    everything = replace(data, test=None, test_fraction=0.0, augment="none")
    return open_sources(everything, seed=seed, train=rows, num_classes=num_classes, labels=labels)


def _configured_task(config: Config, sources: Sources) -> Task:
    data, train = config.data, config.train
    without = data.target is None and train.loss in LOSSES
    return Task(
        model=build_from(config, sources.shapes[data.inputs[0]]),
        forward=inputs(*data.inputs, mean=data.mean, std=data.std),
        loss=no_loss if without else build_loss(train.loss, data.target, train.loss_args),
    )


def _job(
    task: Task,
    model: nn.Module,
    sources: Sources,
    data: Data,
    scoring: Scoring,
    seed: int,
    *,
    classes: bool,
) -> ScoreJob:
    """The job, its first rows tried."""
    first = sources.train.read(None, 0, min(TRIED_ROWS, sources.train.num_rows))
    columns = find_columns(
        task, model, first, target=data.target, classes=classes, dtype=scoring.dtype
    )
    return ScoreJob(
        source=sources.train,
        task=task,
        state=model.state_dict(),
        columns=columns,
        target=data.target,
        scoring=scoring,
        num_readers=data.num_readers,
        seed=seed,
        device=str(device_here("auto")),
    )


@contextmanager
def _engine(
    engine: str, job: ScoreJob, address: str | None, verbose: bool
) -> Iterator[Iterator[Scored]]:
    """The scored blocks of a job, in this process or on a Ray that has what the job needs."""
    if engine == "local":
        yield score_locally(job)
        return
    with connected(address, verbose=verbose):
        from raysb.scan.ray import check_score_job, score_on_ray

        check_score_job(job)
        yield score_on_ray(job, verbose=verbose)


def _write(
    job: ScoreJob,
    given: Any,
    blocks: Iterator[Scored],
    path: Path,
    overwrite: bool,
    watch: Watch | None,
    began: float,
) -> ScoreSummary:
    """Write the blocks as they come, and sum them up."""
    progress = Progress(total=job.source.num_rows, began=began)
    with ScoreFile(path, origin_of(job.source, given), overwrite=overwrite) as file:
        for start, batch in blocks:
            file.write(start, batch)
            progress.add(batch)
            if watch is not None:
                watch(progress)
        if progress.done != progress.total:
            raise RuntimeError(
                f"{progress.done} of {progress.total} rows arrived: the file is not written; "
                "please report this"
            )
        num_bytes = file.finish()
    return progress.summary(path, file.columns, num_bytes)
