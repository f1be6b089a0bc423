"""Rows of different lengths as one array: padding to a multiple.

A `collate` is applied just before the forward pass, to the rows that a scorer takes at once and to
a worker's batch alike. It sees one batch and nothing else, so scorer and worker treat a row alike;
only how far it is padded depends on the other rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import STREAM_COLUMNS, Batch

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pad:
    """Pad columns on the right to L = the smallest multiple that holds the longest row.

    All columns get the same L, so the shapes that a model sees are as many as multiples fit below
    the longest row: few enough for `torch.compile` and cuDNN. A row's loss is the same for any L
    if the model does not look at padding (a causal one never does, others take `mask`) and the
    loss ignores it (`sequence_cross_entropy` does).

    Args:
        columns: Columns to pad: object [n] of 1-D arrays, as lists of numbers are read, or [n, T].
        multiple_of: What L is a multiple of, at least 1.
        value: What to pad with: one number, or one per column (0 where it names none).
        mask: Name of a further column, uint8 [n, L], that is 1 where the first of `columns` has a
            value; None adds none.

    Raises:
        ValueError: An argument is out of range.
    """

    columns: tuple[str, ...]
    multiple_of: int = 8
    value: float | Mapping[str, float] = field(default=0)
    mask: str | None = None

    def __post_init__(self) -> None:
        if not self.columns or not all(isinstance(name, str) and name for name in self.columns):
            raise ValueError(f"pad{self.columns!r}: name the columns to pad, e.g. pad('tokens')")
        whole = isinstance(self.multiple_of, Integral) and not isinstance(self.multiple_of, bool)
        if not whole or self.multiple_of < 1:
            raise ValueError(
                f"pad(multiple_of={self.multiple_of!r}): must be a whole number of at least 1; "
                "1 pads to the longest row"
            )
        if isinstance(self.value, Mapping) and (rest := set(self.value) - set(self.columns)):
            raise ValueError(
                f"pad(value=...): {sorted(rest)[0]!r} is none of the columns {self.columns}; its "
                "value would never be used"
            )
        if self.mask in (*self.columns, *STREAM_COLUMNS):
            raise ValueError(f"pad(mask={self.mask!r}): that column exists; choose another name")

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its columns as arrays [n, L].

        Raises:
            DataError: A column is missing, or its rows are no vectors of numbers, or do not fit
                the type of the padding value.
        """
        lengths = {name: _lengths(name, batch) for name in self.columns}
        longest = max((int(column.max(initial=0)) for column in lengths.values()), default=0)
        length = -(-max(longest, 1) // self.multiple_of) * self.multiple_of
        padded = {
            name: _padded(name, batch[name], lengths[name], length, self._value(name))
            for name in self.columns
        }
        if self.mask is not None:
            real = np.arange(length) < lengths[self.columns[0]][:, None]
            padded[self.mask] = real.astype(np.uint8)
        return {**batch, **padded}

    def _value(self, name: str) -> float:
        return self.value.get(name, 0) if isinstance(self.value, Mapping) else self.value


def pad(
    *columns: str,
    multiple_of: int = 8,
    value: float | Mapping[str, float] = 0,
    mask: str | None = None,
) -> Pad:
    """A `collate` that pads columns to a multiple; see `Pad`.

    pad("tokens", "labels", multiple_of=64, value={"labels": -100}, mask="attention_mask")
    """
    return Pad(columns, multiple_of, value, mask)


def _lengths(name: str, batch: Batch) -> npt.NDArray[np.int64]:
    """Values in each row of a column. int64 [n]."""
    if name not in batch:
        raise DataError(
            f"pad({name!r}): the batch has no such column; its columns: {', '.join(batch)}"
        )
    rows: Array = batch[name]
    if rows.dtype.kind != "O" and rows.ndim == 2:
        return np.full(len(rows), rows.shape[1], np.int64)
    for row, values in enumerate(rows):
        if rows.ndim != 1 or np.ndim(values) != 1 or _kind(values) not in "biuf":
            raise DataError(
                f"pad({name!r}): row {row} is {_describe(values)}; a list of numbers is needed. "
                "Pad arrays of more dimensions in a collate of your own"
            )
    return np.array([len(values) for values in rows], np.int64)


def _padded(
    name: str, rows: Array, lengths: npt.NDArray[np.int64], length: int, value: float
) -> Array:
    if rows.dtype.kind != "O":
        out = _blank(name, len(rows), length, value, rows.dtype)
        out[:, : rows.shape[1]] = rows
        return out
    # an empty list has no type of its own: numpy would take it for float64
    parts = [np.asarray(values) for values in rows if len(values)]
    dtype = np.result_type(*{part.dtype for part in parts}) if parts else np.dtype(np.int64)
    out = _blank(name, len(rows), length, value, dtype)
    if parts:
        out[np.arange(length) < lengths[:, None]] = np.concatenate(parts)
    return out


def _blank(name: str, rows: int, length: int, value: float, dtype: np.dtype[Any]) -> Array:
    """Padding only; a value that the type does not have is refused, where numpy would wrap it."""
    fits = dtype.kind == "f" or (value == value and np.array(value).astype(dtype) == value)
    if not fits:
        raise DataError(
            f"pad({name!r}): the value {value!r} does not fit into {dtype}, the type of the "
            "column. Cast the column, e.g. to int64, or choose another value"
        )
    return np.full((rows, length), value, dtype)


def _kind(values: Any) -> str:
    return "i" if len(values) == 0 else np.asarray(values).dtype.kind


def _describe(values: Any) -> str:
    array = np.asarray(values)
    return f"{array.dtype} of shape {list(array.shape)}"
