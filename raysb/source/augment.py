"""Augmentation as a pure function of (row, key), key = (seed, epoch, id, view).

The picture that is scored is the picture that is trained on, whatever batch, process or restart
brings it. Random numbers come from `Draws.uniform(ids, "augment/{view}/{what}")`.

n rows, H height, W width, C channels.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from raysb.schema import Ids
from raysb.source.settings import AUGMENTATIONS, nearest

Pixels: TypeAlias = npt.NDArray[np.uint8]


class KeyedDraws(Protocol):
    """What an augmentation needs of `seeding.Draws`."""

    def uniform(self, ids: Ids, purpose: str = ...) -> npt.NDArray[np.float64]:
        """One number in [0, 1) for each id, float64 [n]."""


Augmentation: TypeAlias = Callable[[Pixels, Ids, KeyedDraws, int], Pixels]


def augment(name: str) -> Augmentation:
    """The augmentation of a name: (images uint8 [n, H, W, C], ids [n], draws, view) -> images.

    ```
    none        images as they are
    shift       a border of 2 zeros, then a crop of the old size at a random place; no flip, for
                digits
    crop_flip   a reflected border of 4 (H and W at least 5), such a crop, and a horizontal flip
                with chance 1/2
    ```

    Raises:
        ValueError: No augmentation has this name.
    """
    if name not in _BY_NAME:
        raise ValueError(
            f"augment({name!r}): no such augmentation; {nearest(name, AUGMENTATIONS)}."
        )
    return _BY_NAME[name]


def none(images: Pixels, ids: Ids, draws: KeyedDraws, view: int) -> Pixels:
    """Images as they are."""
    return images


def shift(images: Pixels, ids: Ids, draws: KeyedDraws, view: int) -> Pixels:
    """Move each image by -2 to 2 pixels in both directions; zeros come in."""
    border = 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    return _crop(padded, images.shape, ids, draws, view)


def crop_flip(images: Pixels, ids: Ids, draws: KeyedDraws, view: int) -> Pixels:
    """Move each image by -4 to 4 pixels, its own reflection coming in, and flip half of them."""
    border = 4
    if min(images.shape[1:3]) <= border:
        raise ValueError(
            f"crop_flip on images of {images.shape[1]}x{images.shape[2]}: a border of {border} "
            f"pixels cannot be reflected. Use data.augment=shift, or images above {border} pixels."
        )
    margins = ((0, 0), (border, border), (border, border), (0, 0))
    cropped = _crop(np.pad(images, margins, mode="reflect"), images.shape, ids, draws, view)
    flip = draws.uniform(ids, f"augment/{view}/flip") < 0.5
    cropped[flip] = cropped[flip, :, ::-1]
    return cropped


def _crop(padded: Pixels, shape: tuple[int, ...], ids: Ids, draws: KeyedDraws, view: int) -> Pixels:
    """Cut a window of the old size at a place of its own out of each padded image."""
    _, height, width, _ = shape
    windows = sliding_window_view(padded, (height, width), axis=(1, 2))  # [n, places y, x, C, H, W]
    top = _place(ids, draws, f"augment/{view}/top", windows.shape[1])
    left = _place(ids, draws, f"augment/{view}/left", windows.shape[2])
    # One gather of whole windows: 9 times faster than an index array over pixels.
    chosen = windows[np.arange(len(ids)), top, left]
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1))


def _place(ids: Ids, draws: KeyedDraws, purpose: str, places: int) -> npt.NDArray[np.int64]:
    return (draws.uniform(ids, purpose) * places).astype(np.int64)


_BY_NAME: dict[str, Augmentation] = {"none": none, "shift": shift, "crop_flip": crop_flip}
