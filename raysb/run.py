"""`raysb train`: from a configuration to a run directory."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from raysb.cluster import connected, prepare_environment
from raysb.config import Config, flat, to_toml
from raysb.interrupt import Interrupted, terminable
from raysb.job import TrainingJob, Watcher
from raysb.losses import build_loss
from raysb.models import build_from
from raysb.report.directory import RunDirectory
from raysb.report.loggers import Loggers, make_loggers
from raysb.report.screen import Screen
from raysb.source.open import Sources, open_sources
from raysb.training.check import check_first_rows
from raysb.training.spec import StreamSpec

REGRESSION = ("mse", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss")


def train(config: Config, *, verbose: bool = False) -> dict[str, Any]:
    """Train as configured; returns the last metrics.

    Everything that can be known before the start is checked first, with nothing written.

    Raises:
        RaysbError: The data, the model, the resources or the run directory do not allow the run.
        Interrupted: Ctrl-C or SIGTERM asked it to stop, and it has: everything is written.
        KeyboardInterrupt: It was asked twice, or before it began to train.
    """
    began = time.monotonic()
    prepare_environment(verbose)
    with warnings.catch_warnings(), terminable(), Screen(config.train, began) as screen:
        warnings.showwarning = _plain_warning
        return _train(config, screen, verbose)


def _train(config: Config, screen: Screen, verbose: bool) -> dict[str, Any]:
    directory = RunDirectory.claim(config.run.dir, model=config.model.name.split(":")[-1])
    sources = open_sources(
        config.data,
        seed=config.run.seed,
        num_classes=config.model.num_classes,
        labels=has_classes(config),
    )
    config = resolve(config, sources)
    job = build_job(config, sources, screen, verbose)
    screen.phase("checks")
    with engine(config, job, screen) as fit:
        # created only now that nothing is known to stand in the way
        created = directory.create()
        created.config.write_text(to_toml(config))
        with screen.logging_to(created.log):
            return _fit(fit, replace(job, directory=created.path), screen)


def _fit(fit: Callable[..., Any], job: TrainingJob, screen: Screen) -> dict[str, Any]:
    try:
        metrics: dict[str, Any] = fit(job).metrics
    except Interrupted:
        screen.summary(job.directory)
        raise
    except KeyboardInterrupt:
        screen.ended_at_once(job.directory)
        raise
    screen.summary(job.directory)
    return metrics


@contextmanager
def engine(config: Config, job: TrainingJob, screen: Screen) -> Iterator[Callable[..., Any]]:
    """The function that fits a job: in this process, or on a Ray that has what the job needs."""
    if config.engine == "local":
        from raysb.local import fit_locally

        yield fit_locally
        return
    with connected(config.address, verbose=job.verbose):
        screen.phase("ray")
        from raysb.ray_engine import check_job, fit_on_ray

        check_job(job)
        yield fit_on_ray


def has_classes(config: Config) -> bool:
    """Whether an integer target is the number of a class: unless the loss is one of regression."""
    return config.train.loss not in REGRESSION


def resolve(config: Config, sources: Sources) -> Config:
    """Write what the data say into the configuration, so that it alone repeats the run."""
    shape = sources.shapes[config.data.inputs[0]]
    image = len(shape) == 3 and sources.mean is not None
    data = replace(
        config.data,
        mean=sources.mean,
        std=sources.std,
        image_size=shape if image else config.data.image_size,
    )
    classes = (
        config.model.num_classes or sources.num_classes or (None if has_classes(config) else 1)
    )
    return replace(config, data=data, model=replace(config.model, num_classes=classes))


def build_job(config: Config, sources: Sources, watcher: Watcher, verbose: bool) -> TrainingJob:
    """The run of a resolved configuration, every part tried once."""
    data = config.data
    spec = StreamSpec.of(
        sources,
        data,
        model=build_from(config, sources.shapes[data.inputs[0]]),
        loss=build_loss(config.train.loss, data.target, config.train.loss_args),
        selector=config.selector,
        scoring=config.scoring,
        seed=config.run.seed,
    )
    check_first_rows(spec, config.train)
    return TrainingJob(
        spec=spec,
        training=config.train,
        evaluation=config.eval,
        history=config.history,
        held_out=sources.eval,
        optimizer=None,
        directory=None,
        watcher=watcher,
        verbose=verbose,
        loggers=Loggers(make_loggers(config.run.loggers), flat(config)),
    )


def _plain_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
