"""Which tensor is the activation of a layer: the output of the activation function after it.

Between a convolution and its ReLU there may be a pool, a norm, a residual add; the ReLU may be a
module, a module used in several places, or `torch.relu`. All of them end in a call of a torch
function, so the calls are watched while the model runs (`TorchFunctionMode`): the output of a
layer is marked, functions that act on each channel by itself hand the mark on, and the first
activation function that a mark reaches gives the activation. Nothing is traced, and the model runs
as it is, under whatever forward it is called by.

A mark ends where channels are mixed or moved (another layer, matmul, permute, softmax, a reshape
that changes the number of channels) and at functions that are not known here. A layer all of whose
marks end, as the last one does, is taken at its own output.

Not seen: what runs inside `torch.compile`, or is run again by activation checkpointing. An
activation function of one's own counts at the first of the functions below that it calls.

Dimensions in comments: B rows, C channels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# by name: F.relu, torch.relu, Tensor.relu and what nn.ReLU calls are different objects
_ACTIVATIONS = {
    *("relu", "relu6", "leaky_relu", "rrelu", "prelu", "threshold", "clamp", "clamp_min", "clip"),
    *("elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign", "hardtanh"),
    *("hardswish", "hardsigmoid", "sigmoid", "logsigmoid", "tanh", "tanhshrink"),
    *("softshrink", "hardshrink"),
}
_CHANNEL_BY_CHANNEL = {
    *("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"),
    *(f"{kind}_pool{n}d" for kind in ("max", "avg", "lp") for n in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3)),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    *("add", "sub", "mul", "div", "true_divide", "neg", "mean", "sum", "amax"),
    *("to", "float", "double", "half", "bfloat16", "type_as", "contiguous", "clone"),
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "pad", "interpolate"),
}
_JOINS = {"cat", "concat", "concatenate"}


@dataclass(eq=False, kw_only=True)
class Call:
    """One run of a layer in a forward pass.

    Args:
        layer: Its name.
        rows: B.
        channels: C.
        dim: Where C is in its output, [B, C, ...] or [B, ..., C].
        found: Whether its activation was.
    """

    layer: str
    rows: int
    channels: int
    dim: int
    found: bool = False


@dataclass(frozen=True)
class _Mark:
    """A tensor carries the channels of a call: C of its `total`, from `offset` on."""

    call: Call
    offset: int
    total: int

    def fits(self, tensor: torch.Tensor) -> bool:
        dims, dim = tensor.dim(), self.call.dim
        if not -dims <= dim < dims:
            return False
        return tensor.shape[dim] == self.total and tensor.shape[0] == self.call.rows


class ActivationFollower(TorchFunctionMode):
    """Within it, `found` is called for each activation, when it is computed.

    Args:
        found: `(call, tensor, offset)`, called once for each call that was marked and that an
            activation function follows: its activation is channels [offset, offset + C) of the
            tensor.
    """

    def __init__(self, found: Callable[[Call, torch.Tensor, int], None]) -> None:
        super().__init__()
        self._found = found
        self._marks: Any = WeakTensorKeyDictionary()

    def mark(self, call: Call, output: torch.Tensor) -> None:
        """Follow the output of a layer."""
        self._marks[output] = (_Mark(call, 0, call.channels),)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, and hand on the marks of what it was given."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._follow(getattr(func, "__name__", "").rstrip("_"), args, kwargs, result)
        return result

    def _follow(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: torch.Tensor
    ) -> None:
        values = (*args, *kwargs.values())
        if name in _JOINS:
            marks = self._joined(args, kwargs)
        elif name in _ACTIVATIONS or name in _CHANNEL_BY_CHANNEL:
            marks = {mark: None for value in values for mark in self._marks_of(value)}.keys()
        elif any(value is result for value in values):  # changed in place by we know not what
            self._marks.pop(result, None)
            return
        else:
            return
        fitting = tuple(m for m in marks if m.fits(result))
        if name in _ACTIVATIONS:
            self._end(fitting, result)
        elif fitting:
            self._marks[result] = fitting

    def _end(self, marks: Iterable[_Mark], result: torch.Tensor) -> None:
        for mark in marks:
            if not mark.call.found:
                mark.call.found = True
                self._found(mark.call, result, mark.offset)

    def _marks_of(self, value: Any) -> tuple[_Mark, ...]:
        found: tuple[_Mark, ...] = ()
        if isinstance(value, torch.Tensor):
            found = self._marks.get(value, ())
        return found

    def _joined(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[_Mark]:
        """Marks of tensors laid side by side along their channels."""
        parts = args[0] if args else kwargs["tensors"]
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        if not isinstance(dim, int):  # a named dimension
            return []
        marks, before = [], 0
        dims = parts[0].dim()
        sizes = [part.shape[dim] for part in parts]
        for part, size in zip(parts, sizes, strict=True):
            for mark in self._marks_of(part):
                if mark.call.dim % dims == dim % dims:
                    moved = replace(mark, offset=before + mark.offset, total=sum(sizes))
                    marks.append(moved)
                else:
                    marks.append(mark)  # joined along something else: same channels
            before += size
        return marks
