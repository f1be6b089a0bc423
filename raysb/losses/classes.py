"""Cross-entropy of each row, against classes or against distributions over them.

Dimensions in comments: B rows, C classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raysb.errors import ModelError
from raysb.losses.outputs import (
    Batch,
    at_least_float32,
    check_target,
    column,
    logits_of,
    mean_of_rest,
)
from raysb.schema import ID

# no label is ignored unless asked for: torch's own default gives -100 a loss of 0 without a word
_NO_LABEL = -(2**62)
_SUM_TOLERANCE = 1e-2  # of a distribution in half precision


@dataclass(frozen=True)
class CrossEntropy:
    """l = -sum_c q_c log softmax(z)_c with q = (1 - a) onehot(y) + a / C.

    Labels [B] may be of any integer type; floating [B, C] are taken as probabilities. Dense labels
    [B, ...] with logits [B, C, ...] give the mean over their positions.

    Args:
        target: Column of the labels.
        label_smoothing: a, in [0, 1].
    """

    target: str = "label"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_target("cross_entropy", self.target)
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(
                f"train.loss_args.label_smoothing={self.label_smoothing!r}: must be in [0, 1]"
            )

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        logits = at_least_float32(logits_of(outputs))
        labels = self._labels(logits, batch)
        losses = class_cross_entropy(
            logits, labels, self.target, _NO_LABEL, batch, label_smoothing=self.label_smoothing
        )
        return mean_of_rest(losses)

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether the largest logit is that of the label, everywhere. uint8 [B]."""
        logits = logits_of(outputs)
        labels = self._labels(logits, batch)
        if labels.is_floating_point():
            labels = labels.argmax(1)
        right = logits.argmax(1) == labels
        return (right if right.dim() == 1 else right.flatten(1).all(1)).to(torch.uint8)

    def _labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = column(batch, self.target)
        if not labels.is_floating_point():
            return labels.long()
        if labels.shape == logits.shape:
            return labels.to(logits.dtype)
        raise ModelError(_not_classes(self.target, labels.dtype))


@dataclass(frozen=True)
class SoftCrossEntropy:
    """l = -sum_c q_c log softmax(z)_c, where the target q is a distribution over the classes.

    Of mixed labels (mixup), guessed ones, or a teacher's. Distributions [B, C, ...] beside logits
    of the same shape give the mean over their positions. A class with q_c = 0 adds nothing, also
    where its logit is -inf.

    Args:
        target: Column of the distributions: floating, not negative, of sum 1 over dimension 1.
    """

    target: str = "label"

    def __post_init__(self) -> None:
        check_target("soft_cross_entropy", self.target)

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        logits = at_least_float32(logits_of(outputs))
        wanted = self._distributions(logits, batch)
        terms = wanted * logits.log_softmax(1)
        return mean_of_rest(-torch.where(wanted > 0, terms, torch.zeros_like(terms)).sum(1))

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether the largest logit is that of the likeliest class, everywhere. uint8 [B]."""
        logits = logits_of(outputs)
        right = logits.argmax(1) == self._distributions(logits, batch).argmax(1)
        return (right if right.dim() == 1 else right.flatten(1).all(1)).to(torch.uint8)

    def _distributions(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        wanted = column(batch, self.target)
        if wanted.shape != logits.shape or not wanted.is_floating_point():
            raise ModelError(
                f"column {self.target!r} is {wanted.dtype} {list(wanted.shape)}; "
                f"soft_cross_entropy wants probabilities of the logits' shape "
                f"{list(logits.shape)}: of classes as integers, set train.loss=cross_entropy"
            )
        if wanted.device.type == "cpu":  # where it costs nothing: the first rows are tried there
            _check_distributions(wanted, self.target, batch)
        return wanted.to(logits.dtype)


def check_labels(
    labels: npt.NDArray[Any],
    num_classes: int,
    target: str = "label",
    ids: npt.NDArray[np.int64] | None = None,
) -> None:
    """Check labels once, before training: on a GPU, a wrong one would kill the process later.

    Args:
        labels: Integers. [B, ...]
        num_classes: C; every label must be in [0, C).
        target: Name of their column, for the message.
        ids: Keys of the samples, for the message: a row of a shuffled batch is found by no other
            name. [B]

    Raises:
        ModelError: If one is not a class.
    """
    if labels.dtype.kind not in "biu":
        raise ModelError(_not_classes(target, labels.dtype))
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        row = int(wrong[0]) // (labels.size // len(labels))  # of dense labels a row has several
        where = f"in row {row}" if ids is None else f"of the sample with id {ids[row]}, row {row}"
        raise ModelError(_outside(labels.reshape(-1)[wrong], num_classes, target, where))


def _check_distributions(wanted: torch.Tensor, target: str, batch: Batch) -> None:
    sums = wanted.sum(1, dtype=torch.float32)
    wrong = ~((sums - 1).abs() <= _SUM_TOLERANCE) | (wanted < 0).any(1)  # a NaN is no sum
    if wrong.any():
        row = int(wrong.reshape(len(wanted), -1).any(1).nonzero()[0])
        ids = _ids(batch, len(wanted))
        sample = "" if ids is None else f" (the sample with id {ids[row]})"
        raise ModelError(
            f"row {row} of the batch{sample}: column {target!r} is no distribution over the "
            f"classes: {wanted[row].flatten()[:8].tolist()} must not be negative and must have "
            "the sum 1; divide by the sum, or take the softmax of logits first"
        )


def _ids(batch: Batch, rows: int) -> npt.NDArray[np.int64] | None:
    """Keys of the samples, where the batch has one for each row."""
    ids = batch.get(ID)
    return None if ids is None or ids.shape != (rows,) else ids.cpu().numpy()


def _outside(wrong: npt.NDArray[Any], num_classes: int, target: str, where: str) -> str:
    value, largest = int(wrong[0]), int(wrong.max())
    remedy = f"set model.num_classes={largest + 1}" if wrong.min() >= 0 else "relabel these rows"
    return (
        f"label {value} {where} of column {target!r} is outside the {num_classes} classes "
        f"[0, {num_classes}): {remedy}, or name another column (data.target)"
    )


def _not_classes(target: str, dtype: Any) -> str:
    return (
        f"column {target!r} is {dtype}; cross-entropy wants integers in [0, model.num_classes), or "
        "probabilities of the logits' shape: cast the column, or set train.loss=mse for numbers"
    )


def class_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    target: str,
    ignore: int,
    batch: Batch,
    **args: Any,
) -> torch.Tensor:
    """torch's, except that a label outside the classes is told by name and by its sample."""
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none", **args)
    try:
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=ignore, **args)
    except IndexError as error:
        known = labels.masked_fill(labels == ignore, 0).cpu().numpy()
        check_labels(known, logits.shape[1], target, _ids(batch, len(known)))
        raise ModelError(f"cross-entropy on column {target!r}: {error}") from error
