"""The forward pass that scores: no gradient, evaluation mode, and no trace left in the model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.nn.evaluation import evaluation_mode
from raysb.schema import Batch, Floats, concatenate, num_rows, take
from raysb.scoring.resize import check_scale, shrink
from raysb.scoring.scores import LOSS_SCORE, Measured, Score
from raysb.task import Task, TensorBatch, describe, to_tensors

T = TypeVar("T")

CPU_ROWS = 64  # at once: what a layer writes stays in cache, 1.1 to 1.9 times the rows per second
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Scores(NamedTuple):
    """What one forward pass says of each row."""

    losses: Floats  # [n]
    correct: npt.NDArray[np.uint8] | None  # [n]
    extra: Batch  # columns that a method asked for, each [n, ...]
    scores: Floats  # [n] what is ranked; if losses are, their own array

    @property
    def ranked(self) -> Floats | None:
        """What is ranked, `None` where that is the losses."""
        return None if self.scores is self.losses else self.scores


def score(
    task: Task,
    model: nn.Module,
    batch: Batch,
    *,
    dtype: str = "float32",
    by: Score | None = None,
    image_scale: float = 1.0,
) -> Scores:
    """Per-sample losses of a batch at the model's present weights, and what its rows are ranked by.

    A CPU takes the rows 64 at a time, a GPU all at once; in evaluation mode no row sees another.
    Parameters, gradients, buffers and random states are the same before and after: evaluation mode
    moves no batch statistics, and what a module draws is drawn from a fork of the generator.

    Args:
        task: How the batch reaches the model, and the loss.
        model: On whatever device it is.
        batch: n rows.
        dtype: Of the forward pass, `float32`, `bfloat16` or `float16` (autocast); losses are
            float32.
        by: What the rows are ranked by, from `raysb.scoring.registry`; by default the loss.
        image_scale: Pictures are shown to the model at this share of their height and width, above
            0 and at most 1; losses and scores are then those of the small pictures.

    Raises:
        ValueError: `image_scale` is out of range.
        ModelError: The model does not accept the batch, or the score does not go with them.
    """
    check_scale(image_scale)
    by = by or LOSS_SCORE
    parts = _each(
        task,
        model,
        batch,
        partial(_scores, task, model, by, image_scale),
        dtype=dtype,
        keep=by.columns,
    )
    return parts[0] if len(parts) == 1 else _joined(parts)


def each_part(
    task: Task,
    model: nn.Module,
    batch: Batch,
    compute: Callable[[Any, TensorBatch], T],
    *,
    dtype: str = "float32",
) -> list[T]:
    """Outputs of a batch in evaluation mode, part by part, and what is computed from them.

    Nothing is left behind in the model, as of `score`.

    Args:
        task: How the batch reaches the model.
        model: On whatever device it is.
        batch: n rows.
        compute: `(outputs, tensors) -> result` of one part.
        dtype: Of the forward pass.

    Returns:
        The results in the order of the rows; of a batch without rows the result of an empty part.
    """

    def run(tensors: TensorBatch) -> T:
        return compute(task.outputs(model, tensors), tensors)

    return _each(task, model, batch, run, dtype=dtype)


def _each(
    task: Task,
    model: nn.Module,
    batch: Batch,
    run: Callable[[TensorBatch], T],
    *,
    dtype: str,
    keep: Sequence[str] = (),
) -> list[T]:
    """Run something on each part of a batch; `keep` names columns that a `collate` may not drop."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    forked = [device.index or 0] if device.type == "cuda" else []
    low_precision = torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")
    rows = num_rows(batch)
    at_once = CPU_ROWS if device.type == "cpu" else rows
    results = []
    with (
        torch.random.fork_rng(devices=forked),
        evaluation_mode(model),
        torch.no_grad(),
        low_precision,
    ):
        for start in range(0, max(rows, 1), max(at_once, 1)):
            part = take(batch, slice(start, start + at_once))
            tensors = task.tensors(part, device)
            kept = {name: part[name] for name in keep if name in part and name not in tensors}
            results.append(run(tensors | to_tensors(kept, device)))
    return results


def _scores(
    task: Task, model: nn.Module, by: Score, image_scale: float, tensors: TensorBatch
) -> Scores:
    outputs, losses, scores = _measured(task, model, by, image_scale, tensors)
    correct = task.correctness(outputs, tensors)
    as_losses = losses.float().cpu().numpy()
    return Scores(
        as_losses,
        None if correct is None else correct.cpu().numpy(),
        {name: to_array(column(outputs, tensors)) for name, column in task.extra.items()},
        as_losses if scores is losses else scores.float().cpu().numpy(),
    )


def _measured(
    task: Task, model: nn.Module, by: Score, image_scale: float, tensors: TensorBatch
) -> Measured:
    if image_scale == 1:
        return by.measure(task, model, tensors)
    small = shrink(task, tensors, image_scale)
    try:
        return by.measure(task, model, small)
    except ModelError as error:
        raise ModelError(
            f"{error}\n  image_scale={image_scale} made the pictures smaller, here to "
            f"{describe(small)}; a model that takes one size only needs image_scale=1"
        ) from error


def _joined(parts: list[Scores]) -> Scores:
    correct = [part.correct for part in parts if part.correct is not None]
    losses = np.concatenate([part.losses for part in parts])
    ranked = all(part.scores is part.losses for part in parts)
    return Scores(
        losses,
        np.concatenate(correct) if correct else None,
        concatenate([part.extra for part in parts]),
        losses if ranked else np.concatenate([part.scores for part in parts]),
    )


def to_array(column: torch.Tensor) -> npt.NDArray[np.generic]:
    """A tensor as numpy has it; bfloat16 becomes float32."""
    return (column.float() if column.dtype == torch.bfloat16 else column).cpu().numpy()
