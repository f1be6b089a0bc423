"""Losses by the name that a configuration gives them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from raysb.imports import call, check_arguments, resolve
from raysb.losses.classes import CrossEntropy, SoftCrossEntropy
from raysb.losses.outputs import Loss
from raysb.losses.regression import MSE
from raysb.losses.sequence import SequenceCrossEntropy
from raysb.losses.torch_loss import torch_loss


def cross_entropy(target: str = "label", label_smoothing: float = 0.0) -> CrossEntropy:
    """Shorthand for `CrossEntropy`."""
    return CrossEntropy(target, label_smoothing)


def soft_cross_entropy(target: str = "label") -> SoftCrossEntropy:
    """Shorthand for `SoftCrossEntropy`."""
    return SoftCrossEntropy(target)


def mse(target: str = "label") -> MSE:
    """Shorthand for `MSE`."""
    return MSE(target)


def sequence_cross_entropy(
    target: str = "labels", ignore_index: int = -100, shift: bool = False
) -> SequenceCrossEntropy:
    """Shorthand for `SequenceCrossEntropy`."""
    return SequenceCrossEntropy(target, ignore_index, shift)


LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "sequence_cross_entropy": sequence_cross_entropy,
    "soft_cross_entropy": soft_cross_entropy,
    **{name: partial(torch_loss, name) for name in dir(nn) if name.endswith("Loss")},
}
"""Builders `(target, **args) -> loss`."""


def build_loss(name: str, target: str | None, args: Mapping[str, Any] | None = None) -> Loss:
    """Build the loss that a configuration names.

    Args:
        name: `cross_entropy`, `soft_cross_entropy`, `mse`, `sequence_cross_entropy`, a class of
            torch.nn, or an import path to a function `(outputs, batch, **args) -> [B]` or to a
            class, which is called with `args` and gives such a function.
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
