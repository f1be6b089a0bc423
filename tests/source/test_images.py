import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raysb.errors import DataError
from raysb.source.images import ImageFormat, decode

RGB = (12, 10, 3)
GREY = (12, 10, 1)


def where(row: int) -> str:
    return f"f.parquet row {row}"


def pictures(n: int = 4, shape: tuple[int, int, int] = RGB) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG", **how: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, kind, **how)
    return stream.getvalue()


def column(values: list[Any]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def encoded(shape: tuple[int, int, int], resize: bool = False) -> ImageFormat:
    return ImageFormat(shape=shape, stored=None, resize=resize)


@pytest.mark.parametrize("shape", [RGB, GREY])
def test_png_gives_back_the_pixels(shape: tuple[int, int, int]) -> None:
    pixels = pictures(shape=shape)
    found = decode(column([encode(p) for p in pixels]), encoded(shape), where)
    assert found.dtype == np.uint8
    assert np.array_equal(found, pixels)


def test_jpeg_equals_pillow() -> None:
    values = [encode(p, "JPEG") for p in pictures()]
    expected = np.stack([np.asarray(Image.open(io.BytesIO(v))) for v in values])
    assert np.array_equal(decode(column(values), encoded(RGB), where), expected)


@pytest.mark.parametrize("shape", [RGB, GREY])
def test_raw_bytes_and_lists_give_back_the_pixels(shape: tuple[int, int, int]) -> None:
    pixels = pictures(shape=shape)
    form = ImageFormat(shape=shape, stored=shape, resize=False)
    for values in (column([p.tobytes() for p in pixels]), pixels.reshape(len(pixels), -1)):
        found = decode(values, form, where)
        assert np.array_equal(found, pixels)
        assert found.flags.writeable


def test_resizing_equals_pillow_for_encoded_and_raw() -> None:
    pixels, wide = pictures(), (6, 20, 3)
    expected = np.stack(
        [np.asarray(Image.fromarray(p).resize((20, 6), Image.Resampling.BILINEAR)) for p in pixels]
    )
    found = decode(column([encode(p) for p in pixels]), encoded(wide, resize=True), where)
    assert np.array_equal(found, expected)
    form = ImageFormat(shape=wide, stored=RGB, resize=True)
    assert np.array_equal(decode(pixels, form, where), expected)


def test_grey_pictures_become_rgb_among_coloured_ones() -> None:
    grey = pictures(1, GREY)
    found = decode(column([encode(grey[0])]), encoded(RGB), where)
    assert np.array_equal(found, np.repeat(grey, 3, axis=3))


def test_transparency_and_palettes_become_rgb() -> None:
    pixels = pictures(1)[0]
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 128, np.uint8)])
    palette = io.BytesIO()
    Image.fromarray(pixels).quantize(16).save(palette, "PNG")
    found = decode(column([encode(alpha), palette.getvalue()]), encoded(RGB), where)
    assert np.array_equal(found[0], pixels)
    expected = Image.open(io.BytesIO(palette.getvalue())).convert("RGB")
    assert np.array_equal(found[1], np.asarray(expected))


def test_no_rows_are_an_empty_array() -> None:
    for form in (encoded(RGB), ImageFormat(shape=RGB, stored=RGB, resize=False)):
        assert decode(column([]), form, where).shape == (0, *RGB)


GOOD = encode(pictures(1)[0])
DEEP = io.BytesIO()
Image.fromarray(np.zeros((12, 10), np.uint16)).save(DEEP, "PNG")
GIF = encode(pictures(1)[0], "GIF")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"nonsense", "neither PNG nor JPEG"),
        (b"", "neither PNG nor JPEG"),
        (GIF, "neither PNG nor JPEG"),
        (GOOD[: len(GOOD) // 2], "cannot be decoded"),
        (None, "only a path"),
        (DEEP.getvalue(), "more than 8 bits"),
        (encode(pictures(1, (7, 9, 3))[0]), "[7, 9, 3] among pictures of shape [12, 10, 3]"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(value: bytes | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(column([GOOD, value]), encoded(RGB), where)
    assert str(caught.value).startswith("f.parquet row 1: ")
    assert words in str(caught.value)


def test_mixed_shapes_name_the_setting_that_helps() -> None:
    values = column([GOOD, encode(pictures(1, (7, 9, 3))[0])])
    with pytest.raises(DataError, match=r"data\.image_size"):
        decode(values, encoded(RGB), where)
    assert decode(values, encoded(RGB, resize=True), where).shape == (2, *RGB)


def test_a_coloured_picture_among_grey_ones_is_refused_unless_asked_for() -> None:
    values = column([GOOD])
    with pytest.raises(DataError, match=r"\[12, 10, 3\] among pictures of shape \[12, 10, 1\]"):
        decode(values, encoded(GREY), where)
    assert decode(values, encoded(GREY, resize=True), where).shape == (1, *GREY)


def test_raw_bytes_of_another_length_are_named() -> None:
    values = column([b"\0" * 360, b"\0" * 361])
    form = ImageFormat(shape=RGB, stored=RGB, resize=False)
    with pytest.raises(DataError, match=r"row 1: 361 bytes.*has 360"):
        decode(values, form, where)


@pytest.mark.parametrize("limit", [100, 50])
def test_pictures_above_pillows_limit_are_refused(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 120 pixels: below and above twice
    with pytest.raises(DataError, match=f"row 0: .*limit of {limit} pixels"):
        decode(column([GOOD]), encoded(RGB), where)


def test_a_missing_pillow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ImportError, match=r"raysb\[images\]"):
        decode(column([GOOD]), encoded(RGB), where)
