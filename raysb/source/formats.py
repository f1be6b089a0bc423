"""What the values of an image column mean, found once from the first rows and the metadata.

H height, W width, C channels (1 grey, 3 RGB).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import Batch
from raysb.source.images import (
    COLOUR,
    ImageFormat,
    Shape,
    Where,
    decode,
    open_picture,
)

SAMPLE = 64  # first rows that are looked at
MAX_BYTES = 64 << 20  # of a decoded picture where nobody said its size: files of 80 kB hold 240 MB

_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")

Formats: TypeAlias = dict[str, ImageFormat]
Place: TypeAlias = Callable[[int], str]


def find_formats(
    sample: Batch,
    *,
    inputs: Sequence[str],
    image_size: tuple[int, ...] | None,
    place: Place,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> Formats:
    """Formats of those inputs that have to be decoded, reshaped or resized.

    Grey pictures have one channel, unless one of the first rows is in colour: then all become RGB.
    An `image_size` with three numbers settles the channels.

    Args:
        sample: The first rows of the data set, at least one and at most `SAMPLE`.
        inputs: Columns that the model sees; only these are looked at.
        image_size: `data.image_size`.
        place: Names a row of the sample in messages.
        metadata: For each column `shape` ([H, W] or [H, W, C]) and `encoding` (`raw`, `png`,
            `jpeg`), as far as the file has them.

    Raises:
        DataError: Bytes are no picture, or raw and of unknown shape; channels come first.
    """
    formats = {}
    for name in inputs:
        values, known = sample[name], dict((metadata or {}).get(name, {}))
        where = _in_column(place, name)
        if values.dtype == object and (values[0] is None or isinstance(values[0], bytes)):
            formats[name] = _of_bytes(values, known, image_size, where)
        elif values.dtype == np.uint8 and values.ndim > 1:
            if (stored := _stored(values.shape[1:], known, image_size, where)) is not None:
                if values.shape[1:] != (form := _of_raw(stored, image_size, where)).shape:
                    formats[name] = form
    return formats


def decode_columns(batch: Batch, formats: Formats, place: Place) -> Batch:
    """The batch with its image columns as uint8 [n, H, W, C]."""
    done = {
        name: decode(batch[name], form, _in_column(place, name)) for name, form in formats.items()
    }
    return {**batch, **done}


def _in_column(place: Place, name: str) -> Where:
    return lambda row: f"{place(row)}, column {name!r}"


def _of_bytes(
    values: npt.NDArray[Any],
    known: dict[str, Any],
    image_size: tuple[int, ...] | None,
    where: Where,
) -> ImageFormat:
    encoding, shape = known.get("encoding"), known.get("shape")
    # The file's own word goes first: raw pixels may begin with any bytes.
    raw = encoding.lower() == "raw" if encoding else not _is_encoded(values[0])
    if raw:
        stored = _shape3(shape) if shape else _shape_of(len(values[0]), image_size, where)
        return _of_raw(stored, image_size, where)
    pictures = [open_picture(value, where, row) for row, value in enumerate(values)]
    if shape is None:
        colour = any(picture.mode in COLOUR for picture in pictures)
        shape = (pictures[0].height, pictures[0].width, 3 if colour else 1)
    wanted = _with_size(_shape3(shape), image_size)
    if image_size is None and math.prod(wanted) > MAX_BYTES:
        raise DataError(
            f"{where(0)}: pictures of shape {list(wanted)} take {math.prod(wanted) / 1e6:,.0f} MB "
            "each when decoded, and a batch of them would fill the memory. Set data.image_size="
            "[height, width] to resize them, or to this size to have them as they are."
        )
    return ImageFormat(shape=wanted, stored=None, resize=image_size is not None)


def _of_raw(stored: Shape, image_size: tuple[int, ...] | None, where: Where) -> ImageFormat:
    shape = _with_size(stored, image_size)
    if shape[2] != stored[2]:
        raise DataError(
            f"{where(0)}: raw pixels of shape {list(stored)} have {stored[2]} channels, not "
            f"{shape[2]} as in data.image_size={list(shape)}. Leave the channels out."
        )
    return ImageFormat(shape=shape, stored=stored, resize=shape != stored)


def _stored(
    shape: tuple[int, ...],
    known: dict[str, Any],
    image_size: tuple[int, ...] | None,
    where: Where,
) -> Shape | None:
    """(H, W, C) of an array of uint8; None where a row is a list of numbers, not a picture."""
    if len(shape) == 3 and shape[0] in (1, 3) and shape[2] > 4:
        raise DataError(
            f"{where(0)}: images of shape {list(shape)} seem to have their channels first; height, "
            "width, channels are needed. Use images.transpose(0, 2, 3, 1)."
        )
    if len(shape) in (2, 3):
        return _shape3(shape)
    length = math.prod(shape)
    if "shape" in known and length == math.prod(known["shape"]):
        return _shape3(known["shape"])
    if image_size and length in (math.prod(image_size[:2]), 3 * math.prod(image_size[:2])):
        return _shape_of(length, image_size, where)
    return None


def _shape_of(length: int, image_size: tuple[int, ...] | None, where: Where) -> Shape:
    """Shape of raw bytes of which at most the size in pixels is known."""
    if image_size is None:
        raise DataError(
            f"{where(0)}: {length} bytes that are neither PNG nor JPEG, and the file's metadata "
            "has no `shape`. If they are raw pixels, set data.image_size=[height, width]; if not, "
            "the row is damaged."
        )
    channels, rest = divmod(length, image_size[0] * image_size[1])
    if rest or channels not in (1, 3):
        raise DataError(
            f"{where(0)}: {length} bytes are no raw picture of data.image_size={list(image_size)} "
            "with 1 or 3 channels, and neither PNG nor JPEG. Correct data.image_size, or remove "
            "the row."
        )
    return image_size[0], image_size[1], channels


def _is_encoded(value: bytes | None) -> bool:
    return value is None or value.startswith(_MAGIC)


def _shape3(shape: Sequence[int]) -> Shape:
    return shape[0], shape[1], (shape[2] if len(shape) == 3 else 1)


def _with_size(shape: Shape, image_size: tuple[int, ...] | None) -> Shape:
    if image_size is None:
        return shape
    return image_size[0], image_size[1], (image_size[2] if len(image_size) == 3 else shape[2])
