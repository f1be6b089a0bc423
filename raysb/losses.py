"""Per-sample losses: what the model got wrong on each row, before anything is averaged.

A loss is called with (outputs, batch) and returns [B]; where there is a right answer, `correct`
returns uint8 [B]. Half precision is lifted to float32 first: a softmax in bfloat16 has 8 bits.

Dimensions in comments: B rows, C classes, T tokens.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from raysb.errors import ModelError
from raysb.imports import call, check_arguments, resolve

Batch: TypeAlias = Mapping[str, torch.Tensor]
Loss: TypeAlias = Callable[[Any, Batch], torch.Tensor]

# no label is ignored unless asked for: torch's own default gives -100 a loss of 0 without a word
_NO_LABEL = -(2**62)
_INDEX_LOSSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
_REDUCTIONS = ("reduction", "reduce", "size_average")


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
        _check_target("cross_entropy", self.target)
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(
                f"train.loss_args.label_smoothing={self.label_smoothing!r}: must be in [0, 1]"
            )

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        logits = _at_least_float32(logits_of(outputs))
        labels = self._labels(logits, batch)
        losses = _cross_entropy(
            logits, labels, self.target, _NO_LABEL, label_smoothing=self.label_smoothing
        )
        return _mean_of_rest(losses)

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether the largest logit is that of the label, everywhere. uint8 [B]."""
        logits = logits_of(outputs)
        labels = self._labels(logits, batch)
        if labels.is_floating_point():
            labels = labels.argmax(1)
        right = logits.argmax(1) == labels
        return (right if right.dim() == 1 else right.flatten(1).all(1)).to(torch.uint8)

    def _labels(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        labels = _column(batch, self.target)
        if not labels.is_floating_point():
            return labels.long()
        if labels.shape == logits.shape:
            return labels.to(logits.dtype)
        raise ModelError(_not_classes(self.target, labels.dtype))


@dataclass(frozen=True)
class MSE:
    """l = mean over all dimensions but the first of (z - y)^2.

    Args:
        target: Column of the values; [B] also fits outputs of [B, 1].
    """

    target: str = "label"

    def __post_init__(self) -> None:
        _check_target("mse", self.target)

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        values = _at_least_float32(logits_of(outputs))
        target = _like(_column(batch, self.target).to(values.dtype), values, self.target)
        return _mean_of_rest(F.mse_loss(values, target, reduction="none"))


@dataclass(frozen=True)
class SequenceCrossEntropy:
    """l = mean of the cross-entropy over the tokens of a row that are not padding.

    Logits [B, T, C] at position t are compared with the target [B, T] at t: a causal model's
    targets must be shifted beforehand, e.g. in `collate`. A row of padding only has loss 0.

    Args:
        target: Column of the tokens.
        ignore_index: Value of the target that marks padding.
    """

    target: str = "labels"
    ignore_index: int = -100

    def __post_init__(self) -> None:
        _check_target("sequence_cross_entropy", self.target)

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        logits = _at_least_float32(logits_of(outputs))
        tokens = _like(_column(batch, self.target).long(), logits[..., 0], self.target)
        losses = _cross_entropy(logits.transpose(1, 2), tokens, self.target, self.ignore_index)
        return losses.sum(1) / (tokens != self.ignore_index).sum(1).clamp(min=1)

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether every token that is not padding is the most likely one. uint8 [B]."""
        tokens = _column(batch, self.target)
        right = logits_of(outputs).argmax(-1) == tokens
        return (right | (tokens == self.ignore_index)).all(1).to(torch.uint8)


@dataclass(frozen=True)
class TorchLoss:
    """A loss class of torch.nn, called without its reduction; the mean over all but the first dim.

    Args:
        name: Name of the class, e.g. `SmoothL1Loss`; its forward must take (input, target).
        target: Column of the target.
        args: Arguments of the class; a list becomes a tensor, e.g. `weight`.
    """

    name: str
    target: str = "label"
    args: Mapping[str, Any] = field(default_factory=dict)
    module: nn.Module = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_target(self.name, self.target)
        object.__setattr__(self, "module", _build_torch_loss(self.name, self.args))

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Loss of each row. [B]."""
        values = _at_least_float32(logits_of(outputs))
        target = _column(batch, self.target)
        if self.name in _INDEX_LOSSES and not target.is_floating_point():
            target = target.long()
        elif self.name == "MultiLabelMarginLoss":
            target = target.long()
        else:
            target = _like(target.to(values.dtype), values, self.target)
        # a class weight has to be where the outputs are; without tensors this costs nothing
        return _mean_of_rest(self.module.to(values.device)(values, target))


class TorchClassLoss(TorchLoss):
    """A `TorchLoss` over the classes of a row, whose prediction is the largest output."""

    def correct(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """Whether the largest output is that of the label. uint8 [B]."""
        labels = _column(batch, self.target)
        labels = labels.argmax(1) if labels.is_floating_point() else labels
        return (logits_of(outputs).argmax(1) == labels).to(torch.uint8)


def cross_entropy(target: str = "label", label_smoothing: float = 0.0) -> CrossEntropy:
    """Shorthand for `CrossEntropy`."""
    return CrossEntropy(target, label_smoothing)


def mse(target: str = "label") -> MSE:
    """Shorthand for `MSE`."""
    return MSE(target)


def sequence_cross_entropy(
    target: str = "labels", ignore_index: int = -100
) -> SequenceCrossEntropy:
    """Shorthand for `SequenceCrossEntropy`."""
    return SequenceCrossEntropy(target, ignore_index)


def torch_loss(name: str, target: str = "label", **args: Any) -> TorchLoss:
    """A class of torch.nn by name, e.g. `torch_loss("HuberLoss", "price", delta=2.0)`."""
    family = TorchClassLoss if name in _INDEX_LOSSES else TorchLoss
    return family(name, target, args)


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "sequence_cross_entropy": sequence_cross_entropy,
    **{name: partial(torch_loss, name) for name in dir(nn) if name.endswith("Loss")},
}
"""Builders `(target, **args) -> loss`."""


def build_loss(name: str, target: str | None, args: Mapping[str, Any] | None = None) -> Loss:
    """Build the loss that a configuration names.

    Args:
        name: `cross_entropy`, `mse`, `sequence_cross_entropy`, a class of torch.nn, or an import
            path to a function `(outputs, batch, **args) -> [B]` or to a class, which is called with
            `args` and gives such a function.
        target: Column of the right answers; an import path finds its own.
        args: Arguments of the loss.

    Raises:
        ValueError: For an unknown name or argument, or where a target is needed and none is named.
        TypeError: If the import path leads to what cannot be called.
    """
    args = dict(args or {})
    found = resolve(name, LOSSES, "train.loss")
    if name in LOSSES:
        if target is None:
            raise ValueError(
                f"train.loss={name!r}: needs a column to compare with; set data.target"
            )
        loss: Loss = call(found, (target,), args, "train.loss_args")
        return loss
    if inspect.isclass(found):
        found = call(found, (), args, "train.loss_args")
    elif args:
        check_arguments(found, (None, None), args, "train.loss_args")
        found = partial(found, **args)
    if not callable(found):
        raise TypeError(f"train.loss={name!r}: {found!r} cannot be called with (outputs, batch)")
    return found  # type: ignore[no-any-return]  # what an import path leads to is not known


def logits_of(outputs: Any) -> torch.Tensor:
    """The tensor of a model's outputs: itself, its key `logits`, or its attribute `logits`.

    Raises:
        ModelError: If there is none.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = getattr(outputs, "logits", None) if found is None else found
    if isinstance(found, torch.Tensor):
        return found
    keys = f" with keys {list(outputs)}" if isinstance(outputs, Mapping) else ""
    raise ModelError(
        f"the model returned {type(outputs).__name__}{keys}; a tensor is needed, or an object or "
        "dict with `logits`: give forward=(model, batch) -> tensor"
    )


def check_labels(labels: npt.NDArray[Any], num_classes: int, target: str = "label") -> None:
    """Check labels once, before training: on a GPU, a wrong one would kill the process later.

    Args:
        labels: Integers. [...]
        num_classes: C; every label must be in [0, C).
        target: Name of their column, for the message.

    Raises:
        ModelError: If one is not a class.
    """
    if labels.dtype.kind not in "biu":
        raise ModelError(_not_classes(target, labels.dtype))
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ModelError(_outside(labels.reshape(-1)[wrong], num_classes, target, int(wrong[0])))


def _outside(wrong: npt.NDArray[Any], num_classes: int, target: str, row: int) -> str:
    value, largest = int(wrong[0]), int(wrong.max())
    remedy = f"set model.num_classes={largest + 1}" if wrong.min() >= 0 else "relabel these rows"
    return (
        f"label {value} in row {row} of column {target!r} is outside the {num_classes} classes "
        f"[0, {num_classes}): {remedy}, or name another column (data.target)"
    )


def _not_classes(target: str, dtype: Any) -> str:
    return (
        f"column {target!r} is {dtype}; cross-entropy wants integers in [0, model.num_classes), or "
        "probabilities of the logits' shape: cast the column, or set train.loss=mse for numbers"
    )


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, target: str, ignore: int, **args: Any
) -> torch.Tensor:
    """torch's, except that a label outside the classes is told by name."""
    if labels.is_floating_point():
        return F.cross_entropy(logits, labels, reduction="none", **args)
    try:
        return F.cross_entropy(logits, labels, reduction="none", ignore_index=ignore, **args)
    except IndexError as error:
        rows = labels.reshape(-1).cpu().numpy()
        check_labels(rows[rows != ignore], logits.shape[1], target)
        raise ModelError(f"cross-entropy on column {target!r}: {error}") from error


def _build_torch_loss(name: str, args: Mapping[str, Any]) -> nn.Module:
    family = getattr(nn, name, None)
    if not (inspect.isclass(family) and issubclass(family, nn.Module)):
        raise ValueError(f"train.loss={name!r}: torch.nn has no such class")
    takes = [p for p in inspect.signature(family.forward).parameters if p != "self"]
    if len(takes) != 2 or "reduction" not in inspect.signature(family).parameters:
        raise ValueError(
            f"train.loss={name!r}: takes ({', '.join(takes)}), not one output and one target with "
            "a reduction; give a function (outputs, batch) -> [B] by its import path"
        )
    reductions = [arg for arg in _REDUCTIONS if arg in args]
    if reductions:
        raise ValueError(
            f"train.loss_args.{reductions[0]}={args[reductions[0]]!r}: one loss per sample is "
            "needed, nothing may be reduced; leave it out"
        )
    tensors = {k: torch.tensor(v) if isinstance(v, list | tuple) else v for k, v in args.items()}
    module: nn.Module = call(family, (), {**tensors, "reduction": "none"}, "train.loss_args")
    return module


def _check_target(name: str, target: Any) -> None:
    if not isinstance(target, str) or not target:
        raise ValueError(
            f"{name}(target={target!r}): must be the name of a column (data.target), e.g. 'label'"
        )


def _column(batch: Batch, name: str) -> torch.Tensor:
    if name in batch:
        return batch[name]
    raise ModelError(
        f"the batch has no numeric column {name!r} to compare with; its columns: "
        f"{', '.join(map(str, batch)) or 'none'}: set data.target"
    )


def _like(target: torch.Tensor, outputs: torch.Tensor, name: str) -> torch.Tensor:
    """The target in the outputs' shape; [B] and [B, 1] would broadcast to [B, B] without a word."""
    if target.shape == outputs.shape:
        return target
    if len(target) == len(outputs) and target.numel() == outputs.numel():
        return target.reshape(outputs.shape)
    raise ModelError(
        f"column {name!r} has shape {list(target.shape)}, the model's outputs "
        f"{list(outputs.shape)}: they must be equal; set model.num_classes to the number of values "
        "in a row"
    )


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _mean_of_rest(losses: torch.Tensor) -> torch.Tensor:
    return losses if losses.dim() < 2 else losses.flatten(1).mean(1)
