"""The names of `train.strategy`, and which settings go with each; loads without torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raysb.imports import unknown

if TYPE_CHECKING:
    from raysb.training.settings import Training

SINGLE, DDP, FSDP = "single", "ddp", "fsdp"
DATA_PARALLEL, MODEL_PARALLEL, PIPELINE = "data_parallel", "model_parallel", "pipeline"
ONE_PROCESS = (SINGLE, DATA_PARALLEL, MODEL_PARALLEL)
SCHEDULES = ("1f1b", "gpipe")
ROWS, WEIGHTS = "rows", "weights"

ARGUMENTS: dict[str, tuple[str, ...]] = {  # of train.strategy_args, by strategy
    SINGLE: (),
    DDP: (),
    FSDP: (),
    DATA_PARALLEL: (),
    MODEL_PARALLEL: ("split",),
    PIPELINE: ("schedule", "split"),
}


def check_strategy(training: "Training") -> None:
    """Refuse settings that do not go together.

    Raises:
        ValueError: For an unknown name, an argument that the strategy does not take, or numbers of
            workers, rows and micro-batches that do not fit.
        TypeError: For a value of another type.
    """
    name = training.strategy
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise ValueError(f"train.strategy={name!r}: {unknown(str(name), ARGUMENTS)}")
    _check_args(name, training.strategy_args)
    workers, unused = training.max_workers, training.find_unused_parameters
    if not isinstance(unused, bool):
        raise TypeError(f"train.find_unused_parameters={unused!r}: must be true or false")
    if unused and name != DDP:
        raise ValueError(
            f"train.find_unused_parameters=true: train.strategy={name} waits for no parameter's "
            "gradient; leave it out, or set train.strategy=ddp"
        )
    if name in ONE_PROCESS and workers > 1:
        raise ValueError(
            f"train.strategy={name!r}: trains in one process, and train.num_workers={workers} asks "
            "for more; set train.num_workers=1, or train.strategy=ddp, where workers share a step"
        )
    if training.min_workers < workers and name != DDP:
        raise ValueError(
            f"train.num_workers={training.num_workers}: train.strategy={name} trains with one "
            "number of workers from beginning to end, since each holds its part of the model; give "
            "one, or set train.strategy=ddp"
        )
    _check_parts(training)
    if training.normalize not in (ROWS, WEIGHTS):
        raise ValueError(
            f"train.normalize={training.normalize!r}: must be {ROWS} or {WEIGHTS}, by which the "
            "sum of weighted losses is divided"
        )


def in_one_process(training: "Training") -> "Training":
    """The settings with which one process does what a worker does; as they are where it is one.

    Of a pipeline, what all stages do to the rows of all, one after the other.
    """
    if training.strategy in ONE_PROCESS:
        return training
    rows = training.batch_size
    if training.strategy == PIPELINE:
        rows *= training.max_workers
    return replace(
        training,
        strategy=SINGLE,
        strategy_args={},
        find_unused_parameters=False,
        num_workers=1,
        batch_size=rows,
    )


def parallel_steps(training: "Training") -> float:
    """How many times as many rows as one process the workers train in the same time.

    W; of a pipeline with M micro-batches W M / (M + W - 1), since stages wait at either end.
    """
    workers, parts = training.max_workers, training.accumulate
    if training.strategy == PIPELINE:
        return workers * parts / (parts + workers - 1)
    return workers


def check_engine(training: "Training", engine: str) -> None:
    """Refuse a strategy that the engine has not.

    `ddp` on the local engine means its gradient: one process trains the workers' rows as one batch.

    Raises:
        ValueError: The strategy needs several processes, and the local engine is one.
    """
    if engine == "local" and training.strategy in (FSDP, PIPELINE):
        raise ValueError(
            f"train.strategy={training.strategy!r}: needs several processes, and engine=local is "
            "one; leave train.strategy out there (the gradient is the same), or take engine=ray"
        )
    if engine == "local" and training.min_workers < training.max_workers:
        raise ValueError(
            f"train.num_workers={training.num_workers}: engine=local trains the rows of a fixed "
            "number of workers as one batch; give one number, or take engine=ray"
        )


def _check_parts(training: "Training") -> None:
    parts, workers, name = training.accumulate, training.max_workers, training.strategy
    at_once, split = training.batch_size, training.strategy_args.get("split")
    if name == PIPELINE:
        at_once *= workers
        if workers < 2:
            raise ValueError(
                "train.strategy='pipeline': every worker is a stage, and train.num_workers=1; set "
                "at least 2, or train.strategy=single"
            )
        if parts < workers:
            raise ValueError(
                f"train.accumulate={parts}: a pipeline of {workers} stages needs at least as many "
                "micro-batches in a step, else stages have nothing to do; set train.accumulate="
                f"{4 * workers}"
            )
        if split is not None and len(split) != workers - 1:
            raise ValueError(
                f"train.strategy_args.split={split!r}: makes {len(split) + 1} stages, and each "
                f"worker is one, of train.num_workers={workers}; give {workers - 1} of them, the "
                "layers at which the second and each further stage begins, or leave it out for "
                "stages of as equal numbers of layers as can be"
            )
    if at_once % parts:
        fits = max(part for part in range(1, min(parts, at_once) + 1) if at_once % part == 0)
        raise ValueError(
            f"train.accumulate={parts}: must divide the {at_once} rows of a step into "
            f"micro-batches of one size; set {fits}, or another train.batch_size"
        )


def _check_args(name: str, args: Mapping[str, Any]) -> None:
    for key, value in args.items():
        if key not in ARGUMENTS[name]:
            raise ValueError(
                f"train.strategy_args.{key}={value!r}: an argument of {name} "
                f"{unknown(key, ARGUMENTS[name])}"
            )
    schedule = args.get("schedule", SCHEDULES[0])
    if schedule not in SCHEDULES:
        raise ValueError(
            f"train.strategy_args.schedule={schedule!r}: {unknown(str(schedule), SCHEDULES)}"
        )
    split = args.get("split", [])
    whole = isinstance(split, list | tuple) and all(
        type(each) is int and each > 0 for each in split
    )
    if not whole or list(split) != sorted(set(split)):
        raise ValueError(
            f"train.strategy_args.split={split!r}: must be rising whole numbers of at least 1, the "
            "layers at which the second and each further stage begins, e.g. [5]"
        )
