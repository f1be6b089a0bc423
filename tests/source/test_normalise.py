import numpy as np
import pytest

from raysb.errors import DataError
from raysb.source.arrays import ArraySource
from raysb.source.normalise import measure


def images(n: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (n, 5, 4, channels), np.uint8)


@pytest.mark.parametrize("rows", [1, 255, 256, 257, 900, 2000])
def test_mean_and_std_equal_numpy_over_the_first_rows(rows: int) -> None:
    pixels = images(900)
    found = measure(ArraySource({"image": pixels}), ["image"], rows=rows)
    assert found is not None
    values = pixels[:rows] / 255
    np.testing.assert_allclose(found[0], values.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found[1], values.std(axis=(0, 1, 2)), rtol=1e-10)


def test_several_image_columns_are_measured_together() -> None:
    one, other = images(10), images(10)[::-1] // 2
    found = measure(ArraySource({"a": one, "b": other, "x": np.ones(10)}), ["a", "x", "b"])
    assert found is not None
    both = np.concatenate([one, other]) / 255
    np.testing.assert_allclose(found[0], both.mean(axis=(0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_channel_that_never_varies_is_not_divided_by_zero(value: int) -> None:
    pixels = images(300)
    pixels[..., 1] = value
    found = measure(ArraySource({"image": pixels}), ["image"])
    assert found is not None
    assert found[1][1] == 1.0
    assert found[1][0] < 1.0


def test_without_images_nothing_is_measured() -> None:
    source = ArraySource({"x": np.ones((4, 3)), "flat": np.ones((4, 3), np.uint8)})
    assert measure(source, ["x", "flat"]) is None


def test_different_channels_are_refused() -> None:
    source = ArraySource({"a": images(4), "b": images(4, 1)})
    with pytest.raises(DataError, match="3 and 1 channels"):
        measure(source, ["a", "b"])
