"""Squared error of each row."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from raysb.losses.outputs import (
    Batch,
    at_least_float32,
    check_target,
    column,
    like,
    logits_of,
    mean_of_rest,
)


@dataclass(frozen=True)
class MSE:
    """l = mean over all dimensions but the first of (z - y)^2.

    Args:
        target: Column of the values; [B] also fits outputs of [B, 1].
    """

    target: str = "label"

    def __post_init__(self) -> None:
        check_target("mse", self.target)

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        values = at_least_float32(logits_of(outputs))
        target = like(column(batch, self.target).to(values.dtype), values, self.target)
        return mean_of_rest(F.mse_loss(values, target, reduction="none"))
