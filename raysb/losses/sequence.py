"""Cross-entropy of each sequence: the mean over its tokens, whatever their number.

Dimensions in comments: B rows, T tokens, C words of the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch

from raysb.errors import ModelError
from raysb.losses.classes import class_cross_entropy
from raysb.losses.outputs import Batch, at_least_float32, check_target, column, like, logits_of


@dataclass(frozen=True)
class SequenceCrossEntropy:
    """l = 1/|K| sum_{t in K} -log softmax(z_t)_{y_t}, K: the tokens that are not padding.

    The mean is over the tokens of one row, so that a loss does not grow with the length of its
    sequence, and a row's loss is the same however far its batch is padded. A row of padding only
    has loss 0.

    Args:
        target: Column of the tokens, integers [B, T], beside logits [B, T, C].
        ignore_index: Value of the target that marks padding.
        shift: Compare the logits at t with the target at t + 1, as a causal model's are when the
            target is the input itself (`labels` of Hugging Face models). Without it logits at t
            belong to the target at t: whoever shifts the target shifts it in the data.
    """

    target: str = "labels"
    ignore_index: int = -100
    shift: bool = False

    def __post_init__(self) -> None:
        check_target("sequence_cross_entropy", self.target)

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        logits, tokens = self._aligned(at_least_float32(logits_of(outputs)), batch)
        losses = class_cross_entropy(
            logits.transpose(1, 2), tokens, self.target, self.ignore_index, batch
        )
        return losses.sum(1) / (tokens != self.ignore_index).sum(1).clamp(min=1)

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether every token that is not padding is the most likely one. uint8 [B]."""
        logits, tokens = self._aligned(logits_of(outputs), batch)
        right = (logits.argmax(-1) == tokens) | (tokens == self.ignore_index)
        return right.all(1).to(torch.uint8)

    def _aligned(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, T, C] and the tokens [B, T] that they predict."""
        if logits.dim() != 3:
            raise ModelError(
                f"the model's outputs have shape {list(logits.shape)}; a sequence loss wants "
                "[rows, tokens, vocabulary]: give forward=(model, batch) -> logits"
            )
        tokens = like(column(batch, self.target).long(), logits[..., 0], self.target)
        if not self.shift:
            return logits, tokens
        if tokens.shape[1] < 2:
            raise ModelError(
                f"column {self.target!r} has {tokens.shape[1]} tokens a row and shift=True: "
                "nothing follows the first token; pad to 2 or more, or shift in the data"
            )
        return logits[:, :-1], tokens[:, 1:]
