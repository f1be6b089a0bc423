"""Settings of training and evaluation."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from raysb.training.schedule import check_schedule

AXES = ("epochs", "steps", "cost")
# Epochs are 16 bits in the history: history.records.NEVER, repeated because settings load without
# numpy; a test compares the two.
MOST_EPOCHS = 65_535

_AT_LEAST = {  # whole numbers
    "epochs": 1,
    "batch_size": 1,
    "num_workers": 1,
    "checkpoint_every": 0,
    "max_failures": -1,
    "num_threads": 0,
}
_LIMITS = ("max_steps", "max_backprops", "max_time_s", "max_cost")
_TABLES = ("optimizer_args", "loss_args", "schedule_args")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the selected rows are trained on, and when training ends: at whichever limit comes first.

    Args:
        epochs: Passes over the data, 1 to 65535.
        batch_size: Rows of a step on each worker, at least 1.
        num_workers: Train workers, at least 1; a step takes batch_size rows of each.
        lr: Learning rate before the schedule, at least 0.
        optimizer: sgd, adam, adamw, radam, a class of torch.optim, or an import path.
        optimizer_args: Arguments of the optimizer, by name.
        loss: cross_entropy, soft_cross_entropy, mse, sequence_cross_entropy, a class of torch.nn,
            or an import path.
        loss_args: Arguments of the loss, by name.
        schedule: Course of the learning rate: constant, linear, cosine or step.
        schedule_axis: What the schedule's progress counts: epochs, steps (of max_steps) or cost
            (of max_cost).
        schedule_args: Arguments of the schedule: warmup, final, gamma, milestones, every.
        clip_norm: Bound on the norm of the gradient, above 0; `none` leaves it.
        max_steps: Optimizer steps after which training ends, at least 1.
        max_backprops: Back-propagated rows after which training ends, at least 1.
        max_time_s: Seconds after which training ends, above 0.
        max_cost: Cost after which training ends, in epochs of uniform training, above 0.
        scoring_cost: Cost of scoring a row, where training on it costs 1; at least 0.
        use_gpu: Whether workers get a GPU each; `auto` where there are enough.
        num_cpus: CPUs that each worker asks Ray for, at least 0.
        num_gpus: GPUs that each worker asks Ray for where it uses one, above 0; a fraction leaves
            the rest of it to scorers.
        checkpoint_every: Steps between checkpoints; 0 writes one at the end only.
        max_failures: Restarts of the worker group before the run gives up; -1 never does.
        audit: Write ids, probability, weight and weights_step of every step.
        num_threads: Threads of torch in each process; 0 leaves torch's choice.
    """

    epochs: int = 10
    batch_size: int = 64
    num_workers: int = 1
    lr: float = 0.05
    optimizer: str = "sgd"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    loss_args: dict[str, Any] = field(default_factory=dict)
    schedule: str = "cosine"
    schedule_axis: str = "epochs"
    schedule_args: dict[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    max_steps: int | None = None
    max_backprops: int | None = None
    max_time_s: float | None = None
    max_cost: float | None = None
    scoring_cost: float = 1 / 3
    use_gpu: bool | Literal["auto"] = "auto"
    num_cpus: float = 1.0
    num_gpus: float = 1.0
    checkpoint_every: int = 0
    max_failures: int = 3
    audit: bool = False
    num_threads: int = 0

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            _check_count(f"train.{name}", getattr(self, name), least)
        if self.epochs > MOST_EPOCHS:
            raise ValueError(
                f"train.epochs={self.epochs}: must be a whole number of 1 to {MOST_EPOCHS}, which "
                "is as far as the history counts; end earlier with train.max_steps or max_time_s"
            )
        for name in ("lr", "scoring_cost", "num_cpus"):
            _check_amount(f"train.{name}", getattr(self, name))
        _check_amount(
            "train.num_gpus", self.num_gpus, above=True, also="; none: train.use_gpu=false"
        )
        if self.num_gpus > 1 and self.num_gpus % 1:
            raise ValueError(
                f"train.num_gpus={self.num_gpus!r}: above 1, Ray gives whole GPUs only"
            )
        self._check_limits()
        for name in _TABLES:
            if not isinstance(getattr(self, name), dict):
                raise TypeError(
                    f"train.{name}={getattr(self, name)!r}: must be a table of arguments by name"
                )
        self._check_switches()
        check_schedule(self.schedule, self.schedule_args)
        self._check_axis()

    def _check_limits(self) -> None:
        for name in ("max_steps", "max_backprops"):
            if getattr(self, name) is not None:
                _check_count(f"train.{name}", getattr(self, name), 1, also=", or none")
        for name in ("clip_norm", "max_time_s", "max_cost"):
            if getattr(self, name) is not None:
                _check_amount(f"train.{name}", getattr(self, name), above=True, also=", or none")

    def _check_switches(self) -> None:
        for name in ("optimizer", "loss"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"train.{name}={value!r}: must be a name or an import path")
        if self.use_gpu not in (True, False, "auto"):
            raise ValueError(f"train.use_gpu={self.use_gpu!r}: must be true, false or auto")
        if not isinstance(self.audit, bool):
            raise TypeError(f"train.audit={self.audit!r}: must be true or false")

    def _check_axis(self) -> None:
        if self.schedule_axis not in AXES:
            raise ValueError(
                f"train.schedule_axis={self.schedule_axis!r}: must be one of {', '.join(AXES)}"
            )
        limit = {"steps": "max_steps", "cost": "max_cost"}.get(self.schedule_axis)
        if limit and getattr(self, limit) is None:
            raise ValueError(
                f"train.schedule_axis={self.schedule_axis!r}: the schedule would not know where it "
                f"ends; set train.{limit} too"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When the model is evaluated.

    Args:
        every: Optimizer steps between evaluations; 0 evaluates after each epoch.
        batch_size: Rows of a forward pass, at least 1.
    """

    every: int = 0
    batch_size: int = 512

    def __post_init__(self) -> None:
        _check_count("eval.every", self.every, 0)
        _check_count("eval.batch_size", self.batch_size, 1)


def _check_count(key: str, value: Any, least: int, also: str = "") -> None:
    if isinstance(value, bool) or not (isinstance(value, Integral) and int(value) >= least):
        raise ValueError(f"{key}={value!r}: must be a whole number of at least {least}{also}")


def _check_amount(key: str, value: Any, *, above: bool = False, also: str = "") -> None:
    number = float(value) if isinstance(value, Real) else math.nan
    if not math.isfinite(number) or number < 0 or (above and number == 0):
        bound = "above 0" if above else "of at least 0"
        raise ValueError(f"{key}={value!r}: must be a finite number {bound}{also}")
