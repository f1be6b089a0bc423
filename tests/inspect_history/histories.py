"""Histories made by hand."""

from pathlib import Path

import numpy as np
from torch import nn

from raysb.history.table import LossTable
from raysb.training.checkpoint import save


def losses_of(ids, epochs, seed=0):
    """Losses, right or wrong, and selection of every id in every epoch. [epochs, n] each."""
    rng = np.random.default_rng(seed)
    shape = epochs, len(ids)
    lost = rng.exponential(size=shape).astype(np.float32)
    return lost, rng.random(shape) < 0.5, rng.random(shape) < 0.3


def write_checkpoint(run, step, ids, records):
    """A checkpoint with a history of the given records; none of them: without history."""
    table = LossTable()
    for epoch, (lost, right, chosen) in enumerate(zip(*records, strict=True)):
        table.record(
            ids,
            lost,
            correct=None if right is None else right.astype(np.uint8),
            selected=chosen,
            weights_step=10 * (epoch + 1),
            epoch=epoch,
        )
    save(
        Path(run) / f"checkpoint_{step:09d}",
        model=nn.Linear(1, 1),
        learner={},
        stream={"counters": {"num_steps": step}},
        history=table.state_dict() if len(ids) else None,
    )
