"""The forward pass that scores: no gradient, evaluation mode, and no trace left in the model."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raysb.schema import Batch, Floats
from raysb.task import Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Scores(NamedTuple):
    """What one forward pass says of each row."""

    losses: Floats  # [n]
    correct: npt.NDArray[np.uint8] | None  # [n]
    extra: Batch  # columns that a method asked for, each [n, ...]


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, every submodule's own mode again after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def score(task: Task, model: nn.Module, batch: Batch, *, dtype: str = "float32") -> Scores:
    """Per-sample losses of a batch at the model's present weights.

    Parameters, buffers and random states are the same before and after: evaluation mode moves no
    batch statistics, and what a module draws is drawn from a fork of the generator.

    Args:
        task: How the batch reaches the model, and the loss.
        model: On whatever device it is.
        batch: n rows.
        dtype: Of the forward pass, `float32`, `bfloat16` or `float16` (autocast); losses are
            float32.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    forked = [device.index or 0] if device.type == "cuda" else []
    low_precision = torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "float32")
    with (
        torch.random.fork_rng(devices=forked),
        evaluation_mode(model),
        torch.no_grad(),
        low_precision,
    ):
        tensors = task.tensors(batch, device)
        outputs = task.outputs(model, tensors)
        losses = task.losses(outputs, tensors).float()
        correct = task.correctness(outputs, tensors)
        extra = {name: column(outputs, tensors) for name, column in task.extra.items()}
    return Scores(
        losses.cpu().numpy(),
        None if correct is None else correct.cpu().numpy(),
        {name: _array(column) for name, column in extra.items()},
    )


def _array(column: torch.Tensor) -> npt.NDArray[np.generic]:
    return (column.float() if column.dtype == torch.bfloat16 else column).cpu().numpy()
