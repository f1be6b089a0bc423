"""Bytes as pictures: raw uint8, PNG and JPEG, all to one uint8 array [n, H, W, C].

What the bytes of a column mean is found once (`formats.find_formats`), so that no row ever depends
on the batch it is read in.

n rows, H height, W width, C channels (1 grey, 3 RGB).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Shape: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Where: TypeAlias = Callable[[int], str]

_FORMATS = ("PNG", "JPEG")  # no other decoder of pillow is ever reached by a file's bytes
GREY = ("1", "L", "LA")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True, kw_only=True)
class ImageFormat:
    """What the values of a column mean.

    Args:
        shape: (H, W, C) of every picture that comes out.
        stored: (H, W, C) of raw bytes; None where the bytes are PNG or JPEG.
        resize: Whether pictures of other sizes are resized instead of refused.
    """

    shape: Shape
    stored: Shape | None
    resize: bool


def decode(values: npt.NDArray[Any], form: ImageFormat, where: Where) -> Pixels:
    """Pictures of some rows as uint8 [n, H, W, C].

    Encoded pictures: grey becomes RGB where the format has 3 channels, transparency is dropped,
    EXIF orientation is not applied. Resizing is bilinear, with antialiasing.

    Args:
        values: Bytes (object [n]) or raw pixels (uint8 [n, ...]).
        form: From `formats.find_formats`.
        where: Names a row in messages, by its position in `values`.

    Raises:
        DataError: A row cannot be decoded, is larger than `PIL.Image.MAX_IMAGE_PIXELS`, or has
            another shape; the message names it.
    """
    if form.stored is not None:
        pixels = _raw(values, form.stored, where)
        return _resize_all(pixels, form.shape) if form.resize else pixels
    out = np.empty((len(values), *form.shape), np.uint8)
    for i, value in enumerate(values):
        out[i] = _picture(value, form, where, i)
    return out


def open_picture(value: bytes | None, where: Where, row: int) -> "Image":
    """Header of an encoded picture; its pixels are decoded later.

    Raises:
        DataError: No bytes, neither PNG nor JPEG, above the limit of pixels, above 8 bits.
    """
    if value is None:
        raise DataError(
            f"{where(row)}: the struct has no bytes, only a path. Store the pictures themselves "
            "in the file."
        )
    pillow = _pillow()
    try:
        picture: Image = pillow.open(BytesIO(value), formats=_FORMATS)
        # Here, since pillow itself only warns up to twice of its limit, and filters of warnings,
        # being of the whole process, cannot be changed where several threads decode.
        if picture.width * picture.height > (pillow.MAX_IMAGE_PIXELS or math.inf):
            raise pillow.DecompressionBombError
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise DataError(
            f"{where(row)}: the picture is larger than the limit of {pillow.MAX_IMAGE_PIXELS} "
            "pixels and would fill the memory. Remove it, or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except Exception as error:
        raise DataError(
            f"{where(row)}: {len(value)} bytes that are neither PNG nor JPEG. Remove the row, or "
            "set data.image_size=[height, width] if the bytes are raw pixels."
        ) from error
    if picture.mode not in GREY + COLOUR:
        raise DataError(
            f"{where(row)}: pictures of mode {picture.mode} (more than 8 bits) are not read; they "
            "would lose bits without notice. Convert them to 8 bits."
        )
    return picture


def _raw(values: npt.NDArray[Any], stored: Shape, where: Where) -> Pixels:
    if values.dtype == np.uint8:
        return np.array(values).reshape(len(values), *stored)
    size = math.prod(stored)
    for i, value in enumerate(values):
        if value is None or len(value) != size:
            found = "no bytes" if value is None else f"{len(value)} bytes"
            raise DataError(
                f"{where(i)}: {found}, but a raw picture of shape {list(stored)} has {size}. "
                "Pad or crop the pictures to one shape, or store them as PNG and set "
                "data.image_size."
            )
    # A bytearray, because an array over bytes could not be written to.
    return np.frombuffer(bytearray().join(values), np.uint8).reshape(len(values), *stored)


def _resize_all(pixels: Pixels, shape: Shape) -> Pixels:
    pillow = _pillow()
    out = np.empty((len(pixels), *shape), np.uint8)
    for i, image in enumerate(pixels):
        picture = pillow.fromarray(image[:, :, 0] if shape[2] == 1 else image)
        out[i] = _resize(picture, shape)
    return out


def _resize(picture: "Image", shape: Shape) -> Pixels:
    if picture.size != (shape[1], shape[0]):
        picture = picture.resize((shape[1], shape[0]), _pillow().Resampling.BILINEAR)
    return np.asarray(picture).reshape(shape)


def _picture(value: bytes | None, form: ImageFormat, where: Where, row: int) -> Pixels:
    picture = open_picture(value, where, row)
    grey = picture.mode in GREY
    if not form.resize and picture.size != (form.shape[1], form.shape[0]):
        raise _mixed((picture.height, picture.width, 1 if grey else 3), form.shape, where(row))
    if form.shape[2] == 1 and not grey and not form.resize:
        raise _mixed((picture.height, picture.width, 3), form.shape, where(row))
    try:
        converted = picture.convert("L" if form.shape[2] == 1 else "RGB")
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        raise DataError(
            f"{where(row)}: the picture cannot be decoded ({error}). Remove or repair the row."
        ) from error
    return _resize(converted, form.shape)


def _mixed(found: Shape, expected: Shape, where: str) -> DataError:
    return DataError(
        f"{where}: a picture of shape {list(found)} among pictures of shape {list(expected)}; "
        "they cannot be stacked into a batch. Set data.image_size=[height, width], or [height, "
        "width, channels], to resize and convert all of them."
    )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "PNG and JPEG columns need pillow: pip install 'raysb[images]'"
        ) from error
    return Image
