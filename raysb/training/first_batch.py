"""The first batch: the scorer's losses must be the worker's, or something else would be ranked."""

import numpy as np
from torch import nn

from raysb.errors import ModelError
from raysb.schema import ID, LOSS, WEIGHTS_STEP, Batch, take
from raysb.scoring.forward import score
from raysb.training.spec import StreamSpec

LARGEST_DIFFERENCE = 1e-4  # between the two losses of one row, in float32


def compare(spec: StreamSpec, model: nn.Module, rows: Batch, *, step: int, slack: float) -> None:
    """Score rows that a scorer has scored with these very weights, and compare.

    Args:
        spec: How it scores.
        model: The worker's, after `step` optimizer steps.
        rows: Of the first batch, without padding.
        step: Rows that were scored with other weights are left out.
        slack: Factor on the tolerance, for scores of low precision.

    Raises:
        ModelError: The losses differ.
    """
    fresh = rows[WEIGHTS_STEP] == step
    # a row whose loss is not finite is never selected: this one was not scored
    fresh &= ~np.isnan(rows[LOSS].astype(np.float32, copy=False))
    if not fresh.any():
        return
    taken = take(rows, np.flatnonzero(fresh))
    mine = score(spec.task, model, taken, image_scale=spec.scoring.image_scale).losses
    theirs = taken[LOSS].astype(np.float32)
    worst = int(np.argmax(np.abs(mine - theirs)))
    tolerance = LARGEST_DIFFERENCE * max(1.0, abs(float(mine[worst]))) * slack
    if not abs(float(mine[worst] - theirs[worst])) <= tolerance:  # a NaN is no agreement
        raise ModelError(
            f"the scorer's loss of id {int(taken[ID][worst])} is {theirs[worst]:.6g}, the worker's "
            f"{mine[worst]:.6g} at the same weights: selection would rank something else than what "
            "is trained. Likely reasons: the model's builder draws weights that the run's seed "
            "does not fix and that are frozen, forward normalises differently in one process, or "
            "the loss depends on the other rows of its batch"
        )
