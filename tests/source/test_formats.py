import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raysb.errors import DataError
from raysb.source.formats import decode_columns, find_formats
from raysb.source.images import ImageFormat


def place(row: int) -> str:
    return f"row {row}"


def png(*shape: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def find(values: Any, image_size: Any = None, **metadata: Any) -> ImageFormat | None:
    if isinstance(values, list):
        values = np.array([*values, None], object)[:-1]
    found = find_formats(
        {"image": values},
        inputs=("image",),
        image_size=image_size,
        place=place,
        metadata={"image": metadata},
    )
    return found.get("image")


@pytest.mark.parametrize(
    ("values", "how", "shape"),
    [
        ([png(8, 6)], {}, (8, 6, 1)),
        ([png(8, 6, 3)], {}, (8, 6, 3)),
        ([png(8, 6), png(8, 6, 3)], {}, (8, 6, 3)),
        ([png(8, 6)], {"shape": (8, 6, 3)}, (8, 6, 3)),
        ([png(8, 6)], {"image_size": (4, 4)}, (4, 4, 1)),
        ([png(8, 6)], {"image_size": (4, 4, 3)}, (4, 4, 3)),
        ([b"\0" * 48], {"shape": (8, 6)}, (8, 6, 1)),
        ([b"\0" * 144], {"shape": (8, 6, 3), "encoding": "raw"}, (8, 6, 3)),
        ([b"\0" * 48], {"image_size": (8, 6)}, (8, 6, 1)),
        ([b"\0" * 144], {"image_size": (8, 6)}, (8, 6, 3)),
        ([b"\0" * 144], {"shape": (8, 6, 3), "image_size": (2, 2)}, (2, 2, 3)),
        (np.zeros((2, 48), np.uint8), {"shape": (8, 6)}, (8, 6, 1)),
        (np.zeros((2, 144), np.uint8), {"image_size": (8, 6)}, (8, 6, 3)),
        (np.zeros((2, 8, 6), np.uint8), {}, (8, 6, 1)),
        (np.zeros((2, 8, 6, 3), np.uint8), {"image_size": (4, 3)}, (4, 3, 3)),
    ],
)
def test_the_shape_is_found(values: Any, how: dict[str, Any], shape: tuple[int, ...]) -> None:
    form = find(values, **how)
    assert form is not None
    assert form.shape == shape


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 8, 6, 3), np.uint8),
        np.zeros((2, 48), np.uint8),
        np.zeros((2, 8, 6, 3), np.float32),
        np.zeros(2),
        ["text"],
        [np.zeros(3)],
    ],
)
def test_columns_that_need_no_decoding_are_left_alone(values: Any) -> None:
    assert find(values) is None


def test_raw_pixels_may_begin_like_a_picture_where_the_file_says_raw() -> None:
    pixels = b"\xff\xd8\xff" + b"\0" * 45
    form = find([pixels], shape=(8, 6), encoding="raw")
    assert form == ImageFormat(shape=(8, 6, 1), stored=(8, 6, 1), resize=False)


@pytest.mark.parametrize(
    ("values", "how", "words"),
    [
        ([b"\0" * 48], {}, "set data.image_size=[height, width]"),
        ([b"\0" * 48], {"image_size": (5, 5)}, "no raw picture of data.image_size=[5, 5]"),
        ([b"\0" * 48], {"image_size": (8, 6, 3)}, "have 1 channels, not 3"),
        (np.zeros((2, 3, 32, 32), np.uint8), {}, "channels first"),
        ([png(8, 6), b"nonsense"], {}, "row 1, column 'image'"),
        ([None], {}, "only a path"),
    ],
)
def test_what_cannot_be_understood_is_refused(values: Any, how: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError) as caught:
        find(values, **how)
    assert words in str(caught.value)


def test_only_inputs_are_looked_at_and_other_columns_pass() -> None:
    batch = {"image": np.array([png(8, 6), None], object)[:1], "raw": np.array([b"x"], object)}
    formats = find_formats(batch, inputs=("image",), image_size=None, place=place)
    decoded = decode_columns(batch, formats, place)
    assert decoded["image"].shape == (1, 8, 6, 1)
    assert decoded["raw"] is batch["raw"]
