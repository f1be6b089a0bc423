"""Settings of training and evaluation."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from raysb.placement import check_range, check_resources, least_of, most_of
from raysb.training.schedule import check_schedule
from raysb.training.strategies import DDP, FSDP, PIPELINE, ROWS, SINGLE, check_strategy

AXES = ("epochs", "steps", "cost")
FLOAT32, BFLOAT16 = "float32", "bfloat16"
STATISTICS = ("activation", "gradient", "per_sample_gradient")
# Epochs are 16 bits in the history: history.records.NEVER, repeated because settings load without
# numpy; a test compares the two.
MOST_EPOCHS = 65_535

_AT_LEAST = {  # whole numbers
    "epochs": 1,
    "batch_size": 1,
    "checkpoint_every": 0,
    "keep_checkpoints": 1,
    "max_failures": -1,
    "num_threads": 0,
    "accumulate": 1,
    "statistics_every": 1,
}
_LIMITS = ("max_steps", "max_backprops", "max_time_s", "max_cost")
_TABLES = ("optimizer_args", "loss_args", "schedule_args", "strategy_args")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the selected rows are trained on, and when training ends: at whichever limit comes first.

    Args:
        epochs: Passes over the data, 1 to 65535.
        batch_size: Rows of a step on each worker, at least 1.
        num_workers: Train workers, at least 1; a step takes batch_size rows of each; or the fewest
            and the most, as in `1,4`: as many as there are machines for, also after one is lost.
        lr: Learning rate before the schedule, at least 0.
        optimizer: sgd, adam, adamw, radam, ranger, a class of torch.optim, or an import path.
        optimizer_args: Arguments of the optimizer, by name.
        loss: cross_entropy, soft_cross_entropy, mse, sequence_cross_entropy, a class of torch.nn,
            or an import path.
        loss_args: Arguments of the loss, by name.
        schedule: Course of the learning rate: constant, linear, cosine, flat_cosine or step.
        schedule_axis: What the schedule's progress counts: epochs, steps (of max_steps) or cost
            (of max_cost).
        schedule_args: Arguments of the schedule: warmup, final, flat, gamma, milestones, every.
        strategy: How workers and devices share a step: ddp, fsdp, pipeline, single, data_parallel
            or model_parallel.
        strategy_args: Arguments of the strategy: split (model_parallel, pipeline: layers at which
            the second and each further stage begins), schedule (pipeline: 1f1b or gpipe).
        find_unused_parameters: Search every step for parameters that have no part in the loss;
            only for ddp, which otherwise refuses such a model.
        accumulate: Micro-batches of one size that the rows of a step are trained in, at least 1;
            the gradient is that of all rows at once.
        normalize: What the sum of weighted losses is divided by: rows, or weights (their sum,
            which biases importance weights).
        clip_norm: Bound on the norm of the gradient, above 0; `none` leaves it.
        dtype: Of the forward pass in training: float32, or bfloat16 (autocast; weights, losses and
            the optimizer stay float32). Scorers have scoring.dtype, evaluations are in float32.
            bfloat16 not with pipeline.
        ema: Decay of an exponential moving average of the weights, above 0 and below 1; where there
            is one, it is evaluated, and model.safetensors holds it, while scorers get the weights
            themselves. Not with fsdp or pipeline.
        compile: Pass the forward pass in training through torch.compile; for ddp and single.
        max_steps: Optimizer steps after which training ends, at least 1.
        max_backprops: Back-propagated rows after which training ends, at least 1.
        max_time_s: Seconds after which training ends, above 0.
        max_cost: Cost after which training ends, in epochs of uniform training, above 0.
        scoring_cost: Cost of scoring a row, where training on it costs 1; at least 0.
        use_gpu: Whether workers get a GPU each; `auto` where there are enough.
        num_cpus: CPUs that each worker asks Ray for, at least 0.
        num_gpus: GPUs that each worker asks Ray for where it uses one, above 0; a fraction leaves
            the rest of it to scorers.
        resources: Custom resources that each worker asks Ray for, amounts by name, so that it lies
            on machines that offer them.
        checkpoint_every: Steps between checkpoints; 0: only those of the clock, and one at the end.
        checkpoint_every_s: Seconds between checkpoints, above 0; `none`: only those of the steps.
        keep_checkpoints: Newest checkpoints that are kept, at least 1; of those that were evaluated
            at their step, the best one stays too.
        save_best: Write a checkpoint after each evaluation that is the best so far, and the best
            weights as model_best.safetensors at the end.
        patience: Evaluations in a row without an improvement of eval/error (eval/loss, where right
            and wrong cannot be told apart) after which training ends, at least 1; `none`: it does
            not end by this.
        max_failures: Restarts of the worker group before the run gives up; -1 never does.
        stall_after_s: Seconds without a scored pool or a step after which a run on Ray counts as
            stalled: it says who waits for whom; `none` never.
        on_stall: `report` it only, or `stop` the run with a checkpoint too; if it has not stopped
            after the same time again, it is ended from outside.
        audit: Write ids, probability, weight and weights_step of every step.
        num_threads: Threads of torch in each train worker; 0 leaves torch's choice. Ray gives a
            scorer as many as it has CPUs.
        statistics: What `raysb prune` may need of training, added up while it goes on: activation,
            gradient, per_sample_gradient; [] for none. For ddp and single.
        statistics_every: Steps of which one is looked at for these, at least 1.
    """

    epochs: int = 10
    batch_size: int = 64
    num_workers: int | tuple[int, int] = 1
    lr: float = 0.05
    optimizer: str = "sgd"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    loss_args: dict[str, Any] = field(default_factory=dict)
    schedule: str = "cosine"
    schedule_axis: str = "epochs"
    schedule_args: dict[str, Any] = field(default_factory=dict)
    strategy: str = DDP
    strategy_args: dict[str, Any] = field(default_factory=dict)
    find_unused_parameters: bool = False
    accumulate: int = 1
    normalize: str = ROWS
    clip_norm: float | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    ema: float | None = None
    compile: bool = False
    max_steps: int | None = None
    max_backprops: int | None = None
    max_time_s: float | None = None
    max_cost: float | None = None
    scoring_cost: float = 1 / 3
    use_gpu: bool | Literal["auto"] = "auto"
    num_cpus: float = 1.0
    num_gpus: float = 1.0
    resources: dict[str, float] = field(default_factory=dict)
    checkpoint_every: int = 0
    checkpoint_every_s: float | None = 300.0
    keep_checkpoints: int = 2
    save_best: bool = False
    patience: int | None = None
    max_failures: int = 3
    stall_after_s: float | None = 600.0
    on_stall: Literal["report", "stop"] = "report"
    audit: bool = False
    num_threads: int = 0
    statistics: tuple[str, ...] = ()
    statistics_every: int = 8

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            _check_count(f"train.{name}", getattr(self, name), least)
        check_range("train.num_workers", self.num_workers)
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
        check_resources("train", self.resources)
        self._check_limits()
        for name in _TABLES:
            if not isinstance(getattr(self, name), dict):
                raise TypeError(
                    f"train.{name}={getattr(self, name)!r}: must be a table of arguments by name"
                )
        self._check_switches()
        check_strategy(self)
        self._check_step()
        self._check_statistics()
        check_schedule(self.schedule, self.schedule_args)
        self._check_axis()

    @property
    def min_workers(self) -> int:
        """Train workers without which nothing is trained."""
        return least_of(self.num_workers)

    @property
    def max_workers(self) -> int:
        """Train workers where there is room for all."""
        return most_of(self.num_workers)

    def _check_limits(self) -> None:
        for name in ("max_steps", "max_backprops", "patience"):
            if getattr(self, name) is not None:
                _check_count(f"train.{name}", getattr(self, name), 1, also=", or none")
        for name in ("clip_norm", "max_time_s", "max_cost", "checkpoint_every_s", "stall_after_s"):
            if getattr(self, name) is not None:
                _check_amount(f"train.{name}", getattr(self, name), above=True, also=", or none")

    def _check_switches(self) -> None:
        for name in ("optimizer", "loss"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"train.{name}={value!r}: must be a name or an import path")
        if self.use_gpu not in (True, False, "auto"):
            raise ValueError(f"train.use_gpu={self.use_gpu!r}: must be true, false or auto")
        if self.on_stall not in ("report", "stop"):
            raise ValueError(f"train.on_stall={self.on_stall!r}: must be report or stop")
        for name in ("audit", "compile", "save_best"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"train.{name}={getattr(self, name)!r}: must be true or false")

    def _check_step(self) -> None:
        """What a step is made of, and whether the strategy has it."""
        if self.dtype not in (FLOAT32, BFLOAT16):
            raise ValueError(f"train.dtype={self.dtype!r}: must be {FLOAT32} or {BFLOAT16}")
        if self.ema is not None:
            _check_amount("train.ema", self.ema, above=True, also=", below 1, or none")
            if self.ema >= 1:
                raise ValueError(f"train.ema={self.ema!r}: must be above 0 and below 1, or none")
        for name, on, without in (
            ("dtype", self.dtype == BFLOAT16, (PIPELINE,)),
            ("ema", self.ema is not None, (FSDP, PIPELINE)),
        ):
            if on and self.strategy in without:
                raise ValueError(
                    f"train.{name}={getattr(self, name)}: train.strategy={self.strategy} has it "
                    f"not, since a worker holds a part of the model; leave train.{name} out, or "
                    "set train.strategy=ddp"
                )
        if self.compile and self.strategy not in (SINGLE, DDP):
            raise ValueError(
                f"train.compile=true: not with train.strategy={self.strategy}; leave it out, or "
                "set train.strategy=ddp (several workers) or single"
            )

    def _check_statistics(self) -> None:
        given, kinds = f"train.statistics={self.statistics!r}", ", ".join(STATISTICS)
        if not isinstance(self.statistics, list | tuple):
            raise TypeError(f"{given}: must be a list of {kinds}; [] for none")
        named = [each for each in STATISTICS if each in self.statistics]
        if len(named) < len(self.statistics):
            raise ValueError(f"{given}: must be a list of {kinds}, each named once; [] for none")
        object.__setattr__(self, "statistics", tuple(self.statistics))
        if self.statistics and (self.compile or self.strategy not in (SINGLE, DDP)):
            other = "train.compile=true" if self.compile else f"train.strategy={self.strategy}"
            raise ValueError(
                f"{given}: not with {other}, where the layers cannot be watched; leave it out, and "
                "`raysb prune` makes a pass of its own"
            )

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
