"""Per-sample losses: what the model got wrong on each row, before anything is averaged.

A loss is called with (outputs, batch) and returns [B]; where there is a right answer, `correct`
returns uint8 [B]. Half precision is lifted to float32 first: a softmax in bfloat16 has 8 bits.
"""

from raysb.losses.classes import CrossEntropy, SoftCrossEntropy, check_labels
from raysb.losses.lowest import lowest_k
from raysb.losses.outputs import Batch, Loss, logits_of
from raysb.losses.registry import (
    LOSSES,
    build_loss,
    cross_entropy,
    mse,
    sequence_cross_entropy,
    soft_cross_entropy,
)
from raysb.losses.regression import MSE
from raysb.losses.sequence import SequenceCrossEntropy
from raysb.losses.torch_loss import TorchClassLoss, TorchLoss, torch_loss

__all__ = [
    "LOSSES",
    "MSE",
    "Batch",
    "CrossEntropy",
    "Loss",
    "SequenceCrossEntropy",
    "SoftCrossEntropy",
    "TorchClassLoss",
    "TorchLoss",
    "build_loss",
    "check_labels",
    "cross_entropy",
    "logits_of",
    "lowest_k",
    "mse",
    "sequence_cross_entropy",
    "soft_cross_entropy",
    "torch_loss",
]
