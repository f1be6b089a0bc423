"""Training losses whose forward pass is in bfloat16, `train.dtype`; what a loss does is in float32.

Weights, gradients and the optimizer's state stay float32: `torch.autocast` rounds the operands of
matrix products and convolutions, 8 bits of mantissa in place of 24, and keeps float32's range, so
that no loss needs scaling. Scorers have a precision of their own, `scoring.dtype`; the check of the
first batch compares them with a forward pass in float32, whatever is trained in.
"""

from typing import Any

import torch
from torch import nn

from raysb.schema import WEIGHT
from raysb.task import Task, TensorBatch
from raysb.training.settings import BFLOAT16


def training_losses(
    task: Task, model: nn.Module, rows: TensorBatch, dtype: str
) -> dict[str, torch.Tensor]:
    """The named terms of the training loss, each float32 [b] where the model is.

    Args:
        task: Gives outputs and losses.
        model: What training calls.
        rows: Of the batch, b of them, with their weights.
        dtype: `float32` changes nothing; `bfloat16` is that of the model's forward pass, and of all
            of a `step` hook, whose terms are then float32.
    """
    if dtype != BFLOAT16:
        return task.training_losses(model, rows)
    with torch.autocast(rows[WEIGHT].device.type, torch.bfloat16):
        if task.step is not None:
            return {k: term.float() for k, term in task.training_losses(model, rows).items()}
        outputs = task.outputs(model, rows)
    return {"loss": task.losses(lifted(outputs), rows)}


def lifted(outputs: Any) -> Any:
    """Outputs with half precision as float32, in plain dicts, lists and tuples too.

    Objects of a library stay as they are: `raysb.losses` lifts what it takes out of them.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
    if type(outputs) is dict:
        return {name: lifted(value) for name, value in outputs.items()}
    if type(outputs) in (list, tuple):
        return type(outputs)(lifted(value) for value in outputs)
    return outputs
