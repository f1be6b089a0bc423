"""What is learned: how a batch reaches the model, and what one sample's loss is.

A `Task` is given once and used by scorers and train workers alike, so that a score and the loss of
the backward pass are the same function of the same weights.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.schema import STREAM_COLUMNS, Batch, num_rows

TensorBatch: TypeAlias = dict[str, torch.Tensor]
Forward: TypeAlias = Callable[[nn.Module, TensorBatch], Any]
PerSampleLoss: TypeAlias = Callable[[Any, TensorBatch], torch.Tensor]


@dataclass(frozen=True)
class Inputs:
    """Call the model with columns of the batch, as positional or as keyword arguments.

    A uint8 column of shape [B, H, W] or [B, H, W, C] is taken as images: it becomes float32
    [B, C, H, W] in channels_last layout, scaled to [0, 1] and normalised by `mean` and `std`.
    All other columns pass as they are.

    Args:
        columns: Names of the columns, in the order of the model's positional arguments.
        mean: Per-channel mean of the pixels in [0, 1]; `None` leaves them as they are.
        std: Per-channel standard deviation of the pixels in [0, 1], above 0.
        by_name: Pass the columns as keyword arguments, as Hugging Face models want them.
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    by_name: bool = False

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(
                "inputs(): no column is named; name at least one, e.g. inputs('image')"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"inputs(mean={self.mean}, std={self.std}): give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"inputs(std={self.std}): every value must be above 0")

    def __call__(self, model: nn.Module, batch: TensorBatch) -> Any:
        """Return the model's outputs for the batch.

        Raises:
            KeyError: The batch has no such column, or not as numbers.
        """
        if missing := [name for name in self.columns if name not in batch]:
            raise KeyError(
                f"no column {missing[0]!r} of numbers in one shape; rows of text or of different "
                "lengths need a collate that makes one array of them, e.g. collate=raysb.pad("
                f"{missing[0]!r}) (lists of one length: a fixed-size list column)"
            )
        values = [self._prepare(batch[name]) for name in self.columns]
        if self.by_name:
            return model(**dict(zip(self.columns, values, strict=True)))
        return model(*values)

    def _prepare(self, column: torch.Tensor) -> torch.Tensor:
        if column.dtype != torch.uint8 or column.dim() not in (3, 4):
            return column
        images = column.unsqueeze(1) if column.dim() == 3 else column.permute(0, 3, 1, 2)
        images = images.to(torch.float32, memory_format=torch.channels_last).div_(255.0)
        if self.mean is None or self.std is None:
            return images
        shape = (1, len(self.mean), 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        return images.sub_(mean).div_(torch.tensor(self.std, device=images.device).view(shape))


def inputs(
    *columns: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    by_name: bool = False,
) -> Inputs:
    """Shorthand for `Inputs`: `inputs("image")`, `inputs("tokens", "mask", by_name=True)`."""
    return Inputs(columns, mean, std, by_name)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, and what its loss on a sample is.

    Args:
        model: Builds the module: `() -> nn.Module`, the same in every process.
        forward: `(model, batch) -> outputs`; `batch` is a dict of tensors on the model's device.
        loss: `(outputs, batch) -> float [B]`, one loss per sample.
        correct: `(outputs, batch) -> uint8 or bool [B]`, whether each prediction was right;
            by default the loss's own method `correct`, where it has one.
        extra: Further columns that a method wants of every scored row, by name:
            `(outputs, batch) -> tensor [B, ...]`, e.g. probabilities or features.
        collate: `(batch of numpy arrays) -> batch of numpy arrays` of as many rows, applied by
            scorer and worker just before the forward pass, e.g. `raysb.pad("tokens")`.
        step: `(model, batch) -> float [B]` or a dict of named terms, each [B], whose sum is the
            training loss; in place of forward and loss on the training side only.
    """

    model: Callable[[], nn.Module]
    forward: Forward
    loss: PerSampleLoss
    correct: Callable[[Any, TensorBatch], torch.Tensor] | None = None
    extra: Mapping[str, Callable[[Any, TensorBatch], torch.Tensor]] = field(default_factory=dict)
    collate: Callable[[Batch], Batch] | None = None
    step: Callable[[nn.Module, TensorBatch], torch.Tensor | dict[str, torch.Tensor]] | None = None

    def build(self, seed: int) -> nn.Module:
        """Build the model; the seed fixes its initial weights and leaves the global state alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.model()
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"model() returned {type(model).__name__}, not a torch.nn.Module; "
                "give a function that builds the module, e.g. model=build_model"
            )
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def tensors(self, batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
        """Collate a batch and move its numeric columns to the device.

        The stream's own columns stay, also where `collate` returns the model's only.

        Raises:
            ModelError: `collate` returned something else than as many rows as it was given.
        """
        if self.collate is None:
            return to_tensors(batch, device)
        own = {name: batch[name] for name in STREAM_COLUMNS if name in batch}
        collated = self.collate(batch)
        _check_collated(collated, num_rows(batch), self.collate)
        return to_tensors(own | collated, device)

    def outputs(self, model: nn.Module, batch: TensorBatch) -> Any:
        """Call the model; what goes wrong in it is told with the batch that it was given."""
        try:
            return self.forward(model, batch)
        except (TypeError, ValueError, KeyError, RuntimeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the model does not accept the batch: {type(error).__name__}: {error}\n"
                f"  columns: {describe(batch)}\n"
                f"  call tried: {describe_callable(self.forward)} with {type(model).__name__}"
                f"{_signature(model.forward)}\n"
                "  give forward=(model, batch) -> outputs, or name other columns "
                "(data.inputs, raysb.inputs)"
            ) from error

    def losses(self, outputs: Any, batch: TensorBatch) -> torch.Tensor:
        """One loss per sample, checked to be a vector of the batch's length. [B]"""
        losses = self.loss(outputs, batch)
        return check_losses(losses, batch, self.loss)

    def training_losses(self, model: nn.Module, batch: TensorBatch) -> dict[str, torch.Tensor]:
        """The named terms of the training loss, each [B]; their sum is what is differentiated."""
        if self.step is None:
            return {"loss": self.losses(self.outputs(model, batch), batch)}
        terms = self.step(model, batch)
        named = terms if isinstance(terms, dict) else {"loss": terms}
        return {name: check_losses(term, batch, self.step) for name, term in named.items()}

    def correctness(self, outputs: Any, batch: TensorBatch) -> torch.Tensor | None:
        """Whether each prediction was right, where the task can tell. uint8 [B]"""
        rule = self._rule
        return None if rule is None else rule(outputs, batch).to(torch.uint8)

    @property
    def tells_right_from_wrong(self) -> bool:
        """Whether `correctness` has an answer."""
        return self._rule is not None

    @property
    def _rule(self) -> Callable[[Any, TensorBatch], torch.Tensor] | None:
        return self.correct or getattr(self.loss, "correct", None)


def to_tensors(batch: Batch, device: torch.device | str = "cpu") -> TensorBatch:
    """Tensors of the numeric columns; text and ragged columns stay behind."""
    tensors = {
        name: torch.from_numpy(_writable(column))
        for name, column in batch.items()
        if column.dtype.kind in "biuf"
    }
    return to_device(tensors, torch.device(device))


def to_device(tensors: TensorBatch, device: torch.device) -> TensorBatch:
    """Tensors of the CPU on a device; the very same where that is the CPU."""
    if device.type == "cpu":  # asking each tensor takes longer than a small net's first layer
        return tensors
    at_once = device.type == "cuda"  # elsewhere the source may go before it is copied
    return {name: tensor.to(device, non_blocking=at_once) for name, tensor in tensors.items()}


def _check_collated(collated: Any, rows: int, collate: Any) -> None:
    """Row i of every column must stay sample i: at least as many rows as were given."""
    if not isinstance(collated, dict):
        raise ModelError(
            f"{describe_callable(collate)} returned {type(collated).__name__}; a collate takes a "
            "dict of numpy arrays and returns one"
        )
    for name, column in collated.items():
        if not isinstance(column, np.ndarray) or column.shape[:1] != (rows,):
            got = list(np.shape(column)) if isinstance(column, np.ndarray) else type(column)
            raise ModelError(
                f"{describe_callable(collate)} returned the column {name!r} as {got} for {rows} "
                "rows: a numpy array with one entry per row, in their order, is needed, else a "
                "loss would be noted for another sample"
            )


def _writable(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Arrays that live in the object store are read-only, which torch cannot wrap."""
    contiguous = np.ascontiguousarray(column)
    return contiguous if contiguous.flags.writeable else contiguous.copy()


def check_losses(losses: Any, batch: TensorBatch, loss: Any) -> torch.Tensor:
    """Return the losses if there is one per sample."""
    rows = len(next(iter(batch.values())))
    if isinstance(losses, torch.Tensor) and losses.shape == (rows,):
        return losses
    got = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else repr(type(losses))
    raise ModelError(
        f"{describe_callable(loss)} returned {got} for a batch of {rows} rows; one loss per sample "
        f"is needed, shape ({rows},). Use reduction='none', and average what is left of each sample"
    )


def describe(batch: TensorBatch) -> str:
    """Names, dtypes and shapes of a batch's columns, for messages."""
    return ", ".join(f"{k} {str(v.dtype)[6:]} {list(v.shape)}" for k, v in batch.items())


def describe_callable(function: Any) -> str:
    """A function's name, or an object's own description, for messages."""
    return getattr(function, "__qualname__", None) or repr(function)


def _signature(function: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(...)"
