"""`raysb train`: from a configuration to a run directory."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from raysb.cluster import connected, prepare_environment
from raysb.collecting import collecting_rarely
from raysb.config import Config, to_toml
from raysb.interrupt import Interrupted, terminable
from raysb.job import TrainingJob
from raysb.prepare import prepare
from raysb.prune.plan import PLAN
from raysb.report.screen import Screen
from raysb.resume import Resumed


def train(
    config: Config, *, resumed: Resumed | None = None, verbose: bool = False
) -> dict[str, Any]:
    """Train as configured; returns the last metrics.

    Everything that can be known before the start is checked first, with nothing written.

    Args:
        config: Of a new run; ignored where one is resumed.
        resumed: A run that goes on from its newest checkpoint.
        verbose: Leave Ray's own output on.

    Raises:
        RaysbError: The data, the model, the resources or the run directory do not allow the run.
        Interrupted: Ctrl-C or SIGTERM asked it to stop, and it has: everything is written.
        KeyboardInterrupt: It was asked twice, or before it began to train.
    """
    began = time.monotonic()
    prepare_environment(verbose)
    with warnings.catch_warnings(), terminable(), Screen(config.train, began) as screen:
        warnings.showwarning = _plain_warning
        return _train(config, resumed, screen, verbose)


def _train(
    config: Config, resumed: Resumed | None, screen: Screen, verbose: bool
) -> dict[str, Any]:
    ready = prepare(config, resumed=resumed, watcher=screen, verbose=verbose)
    screen.phase("checks")
    job = replace(ready.job, directory=ready.directory.path)
    with engine(ready.config, job, screen) as fit:
        # created only now that nothing is known to stand in the way
        created = ready.directory if resumed else ready.directory.create()
        with created.locked(), screen.logging_to(created.log):
            for line in () if resumed is None else resumed.differences():
                screen.note(f"resumed with {line}")
            _write(created.config, to_toml(ready.config).encode())
            _keep_plan(ready.config.model.plan, created.path / PLAN)
            return _fit(fit, replace(ready.job, directory=created.path), screen)


def _write(path: Path, content: bytes) -> None:
    """Replace a file: it is the old one or the new one, whatever happens."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(content)
    draft.replace(path)


def _keep_plan(plan: str | None, own: Path) -> None:
    """A run of a net that is cut down has the plan beside its weights: neither is of use alone."""
    if plan is not None and not (own.exists() and own.samefile(plan)):
        _write(own, Path(plan).read_bytes())


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
        from raysb.device import device_here
        from raysb.local import fit_locally

        device_here(config.train.use_gpu)  # refuses a GPU that is not there

        yield fit_locally
        return
    with connected(config.address, verbose=job.verbose):
        screen.phase("ray")
        with collecting_rarely():
            from raysb.ray_engine import check_folders, check_job, fit_checked

        scaling = check_job(job)
        check_folders(job, scaling)
        yield partial(fit_checked, scaling=scaling)


def _plain_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
