"""The protocol of a logger, and loggers by name or import path."""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from raysb.imports import call, resolve

KEY = "run.loggers"

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"


class Logger(Protocol):
    """What is told of a run. Methods are called in one thread of its own, only on the driver.

    Whatever they raise ends this logger with a warning, never the run.
    """

    def start(self, config: Mapping[str, Any], directory: Path) -> None:
        """The run begins.

        Args:
            config: Every setting by dotted key, `{"train.lr": 0.05, ...}`; empty for a run that
                was not made from settings.
            directory: The run directory, absolute, there already.
        """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """A line of `metrics.jsonl`, about one a second.

        Args:
            metrics: The line's finite numbers by key, `{"score/loss": 0.31, ...}`.
            step: Optimizer steps so far. Not unique, and lower again after a restart of workers.
        """

    def finish(self, status: str) -> None:
        """The run is over: `finished`, `failed` or `interrupted`. Nothing is logged afterwards."""


Named: TypeAlias = str | Logger

LOGGERS = {
    "tensorboard": "raysb.report.loggers.tensorboard:TensorBoard",
    "mlflow": "raysb.report.loggers.mlflow:MLflow",
    "wandb": "raysb.report.loggers.wandb:WandB",
}


def make_loggers(given: Iterable[Named]) -> dict[str, Logger]:
    """Loggers by the name that messages call them.

    Args:
        given: Names of `LOGGERS`, import paths (`package.module:MyLogger`) of a class or function
            that is called without arguments, or objects with the three methods.

    Raises:
        ImportError: The package behind a name is not installed; the message has the pip command.
        TypeError: An object lacks one of the three methods.
        ValueError: A name is unknown, or cannot be imported.
    """
    made: dict[str, Logger] = {}
    for each in given:
        name = each if isinstance(each, str) else type(each).__name__
        made[name] = _make(each) if isinstance(each, str) else _checked(each, name)
    return made


def _make(name: str) -> Logger:
    if name == "none":
        raise ValueError(f"{KEY}='none': no logger has this name; write [] for no loggers")
    found = resolve(name, LOGGERS, KEY)
    if name in LOGGERS:
        found = resolve(found, {}, KEY)  # only now: each imports what it needs
    is_factory = isinstance(found, type) or (callable(found) and not hasattr(found, "log"))
    return _checked(call(found, (), {}, KEY) if is_factory else found, name)


def _checked(logger: Any, name: str) -> Logger:
    methods = ("start", "log", "finish")
    lacking = [each for each in methods if not callable(getattr(logger, each, None))]
    if lacking:
        raise TypeError(
            f"{KEY}={name!r}: {type(logger).__name__} has no {' and no '.join(lacking)}; a logger "
            "has start(config, directory), log(metrics, step) and finish(status)"
        )
    checked: Logger = logger
    return checked


def require(module: str, package: str, name: str) -> None:
    """Refuse a logger whose package is not installed, without importing it.

    Raises:
        ImportError: It is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ImportError(
            f"{KEY}={name!r} needs the package {package}, which is not installed: "
            f"pip install {package}"
        )
