"""Mean loss and error over rows that nobody trains on, split over the workers."""

from typing import Any

import numpy as np
from torch import nn

from raysb.schema import Source
from raysb.scoring.forward import score
from raysb.task import Task
from raysb.training.exchange import Exchange


def evaluate(
    task: Task,
    model: nn.Module,
    source: Source,
    exchange: Exchange,
    *,
    batch_size: int = 512,
    prepare: Any = None,
) -> dict[str, float]:
    """Evaluate in evaluation mode without gradient; leaves no trace in the model.

    Args:
        task: How a batch reaches the model, and the loss.
        model: Module with the weights to judge.
        source: The rows, read in their own order.
        exchange: Sums over workers; each reads every W-th batch.
        batch_size: Rows per forward pass.
        prepare: `(batch) -> batch` before the forward pass, or `None`.

    Returns:
        `eval/loss` and, where the task can tell right from wrong, `eval/error`, in [0, 1].
    """
    sums = np.zeros(4)
    starts = range(0, source.num_rows, batch_size)
    for start in starts[exchange.rank :: exchange.world_size]:
        batch = source.read(None, start, min(start + batch_size, source.num_rows))
        scores = score(task, model, prepare(batch) if prepare else batch)
        sums += [scores.losses.sum(dtype=np.float64), len(scores.losses), 0, 0]
        if scores.correct is not None:
            sums += [
                0,
                0,
                len(scores.correct) - scores.correct.sum(dtype=np.int64),
                len(scores.correct),
            ]
    loss, rows, wrong, judged = exchange.sum(sums)
    result = {"eval/loss": loss / max(rows, 1)}
    if judged:
        result["eval/error"] = wrong / judged
    return {name: float(value) for name, value in result.items()}
