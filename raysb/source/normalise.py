"""Mean and standard deviation of pixels, measured on the first rows."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import Batch, Source

Channels: TypeAlias = tuple[float, ...]

_BLOCK = 256  # rows at a time, so that large pictures do not pile up


def image_columns(batch: Batch, columns: Sequence[str]) -> list[str]:
    """Those of the columns that hold images: uint8 [n, H, W, C]."""
    return [name for name in columns if batch[name].dtype == np.uint8 and batch[name].ndim == 4]


def measure(
    source: Source, columns: Sequence[str], rows: int = 1024
) -> tuple[Channels, Channels] | None:
    """Mean and standard deviation per channel of pixels in [0, 1] over the first rows.

    mean = E[p], std = sqrt(E[p^2] - E[p]^2) over all pixels p = value / 255 of all image columns,
    in exact integer sums. A channel that never varies gets std 1, so that it is not divided by 0.

    Args:
        source: Rows; the first ones in the order of the data itself are read.
        columns: Columns to look at; those that hold no images are passed over.
        rows: How many rows to read, at most.

    Returns:
        (mean, std), a number per channel each; None where no column holds images.

    Raises:
        DataError: Two image columns have different numbers of channels.
    """
    count = 0
    sums: npt.NDArray[np.int64] | None = None  # [2, C] of values and of their squares
    rows = min(rows, source.num_rows)
    for start in range(0, rows, _BLOCK):
        batch = source.read(None, start, min(start + _BLOCK, rows))
        for name in image_columns(batch, columns):
            pixels = batch[name].reshape(-1, batch[name].shape[3]).astype(np.int64)
            both = np.stack([pixels.sum(axis=0), (pixels**2).sum(axis=0)])
            if sums is not None and sums.shape != both.shape:
                raise DataError(
                    f"the image columns of {list(columns)} have {sums.shape[1]} and "
                    f"{both.shape[1]} channels, so they cannot share data.mean and data.std. "
                    "Convert them with data.image_size=[height, width, channels]."
                )
            sums = both if sums is None else sums + both
            count += len(pixels)
    if sums is None:
        return None
    values, squares = sums
    mean = values / (255.0 * count)
    std = np.sqrt(np.maximum(squares / (255.0**2 * count) - mean**2, 0.0))
    for channel, (value, square) in enumerate(zip(values.tolist(), squares.tolist(), strict=True)):
        if square * count == value**2:  # in Python's integers, which do not overflow
            std[channel] = 1.0
    return tuple(mean.tolist()), tuple(std.tolist())
