"""`raysb train`: from a configuration to a run directory."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysb.cluster import connected, prepare_environment
from raysb.config import Config, to_toml
from raysb.job import TrainingJob, Watcher
from raysb.losses import build_loss
from raysb.models import build_from
from raysb.report.console import Console
from raysb.report.directory import RunDirectory
from raysb.source.open import Sources, open_sources
from raysb.training.check import check_first_rows
from raysb.training.spec import StreamSpec

REGRESSION = ("mse", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss")


class Screen:
    """Shows a run on the console: phases with seconds, progress now and then, evaluations.

    Args:
        console: Where lines go.
        config: The run's, for what a line of metrics does not say.
        began: When the command was given, `time.monotonic()`.
    """

    def __init__(self, console: Console, config: Config, began: float) -> None:
        self._console = console
        self._epochs = config.train.epochs
        self._since = began
        self._phases: dict[str, float] = {}
        self._last: dict[str, Any] = {}

    @contextmanager
    def logging_to(self, path: Path) -> Iterator[None]:
        """Write every line also into a file, while the block runs."""
        self._console.log_to(path)
        try:
            yield
        finally:
            self._console.close()

    def phase(self, name: str) -> None:
        """Note a phase; the last one is the first batch, and then all are shown."""
        now = time.monotonic()
        self._phases[name] = now - self._since
        self._since = now
        if name == "first batch":
            self._console.phases(self._phases)

    def line(self, line: Mapping[str, Any]) -> None:
        """Show a line of metrics if it is one to show."""
        record = self._record(line)
        if line["kind"] in ("epoch", "eval"):
            self._console.evaluation(record)
        elif line["kind"] == "train":
            self._console.progress(record)
        self._last |= record

    def _record(self, line: Mapping[str, Any]) -> dict[str, Any]:
        fraction = line["fraction"]
        gone = line["wall_time_s"]
        return {
            **line,
            "epoch": fraction * self._epochs,
            "epochs": self._epochs,
            "left_s": gone * (1 - fraction) / fraction if fraction else None,
            "kept": line.get("select/kept_fraction"),
            "age": line.get("mean_age_steps"),
            "eval/error": line.get("eval/error", self._last.get("eval/error")),
        }

    def summary(self, directory: Any) -> None:
        """Say what was reached, at which cost, and where it lies."""
        record = {
            **self._last,
            "num_unused": self._last.get("select/waiting_rows"),
            "num_nonfinite": self._last.get("score/nonfinite"),
        }
        self._console.summary(record, directory)


def train(config: Config, *, verbose: bool = False) -> dict[str, Any]:
    """Train as configured; returns the last metrics.

    Everything that can be known before the start is checked first, with nothing written.

    Raises:
        RaysbError: The data, the model, the resources or the run directory do not allow the run.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _plain_warning
        return _train(config, verbose)


def _train(config: Config, verbose: bool) -> dict[str, Any]:
    began = time.monotonic()
    prepare_environment(verbose)
    directory = RunDirectory.claim(config.run.dir, model=config.model.name.split(":")[-1])
    sources = open_sources(
        config.data,
        seed=config.run.seed,
        num_classes=config.model.num_classes,
        labels=has_classes(config),
    )
    config = resolve(config, sources)
    screen = Screen(Console(), config, began)
    job = build_job(config, sources, screen, verbose)
    screen.phase("checks")
    with engine(config, job, screen) as fit:
        # created only now that nothing is known to stand in the way
        created = directory.create()
        created.config.write_text(to_toml(config))
        with screen.logging_to(created.log):
            metrics: dict[str, Any] = fit(replace(job, directory=created.path)).metrics
            screen.summary(created.path)
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
    )


def _plain_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
