import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.seeding import Draws
from raysb.source.augment import augment

NAMES = ["none", "shift", "crop_flip"]
BORDERS = {"shift": (2, "constant"), "crop_flip": (4, "reflect")}


def pictures(n: int, channels: int = 3, height: int = 8, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (n, height, width, channels), np.uint8)


def by_row(name: str, image: np.ndarray, row_id: int, draws: Draws, view: int) -> np.ndarray:
    """The same for one row, as one would write it down without thinking of speed."""
    if name == "none":
        return image

    def draw(what: str) -> float:
        return float(draws.uniform(np.array([row_id]), f"augment/{view}/{what}")[0])

    border, mode = BORDERS[name]
    height, width, _ = image.shape
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode=mode)  # type: ignore[call-overload]
    top, left = (int(draw(what) * (2 * border + 1)) for what in ("top", "left"))
    out = padded[top : top + height, left : left + width]
    return np.fliplr(out) if name == "crop_flip" and draw("flip") < 0.5 else out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_rows_one_by_one(name: str, channels: int) -> None:
    images, ids, draws = pictures(60, channels), np.arange(60) * 7, Draws(seed=3, epoch=2)
    expected = [by_row(name, i, int(d), draws, 1) for i, d in zip(images, ids, strict=True)]
    assert np.array_equal(augment(name)(images, ids, draws, 1), np.stack(expected))


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.integers(0, 29), min_size=1, max_size=10))
def test_a_picture_does_not_depend_on_its_batch(name: str, rows: list[int]) -> None:
    images, ids, draws = pictures(30), np.arange(30) - 5, Draws(seed=1, epoch=4)
    together = augment(name)(images, ids, draws, 0)
    assert np.array_equal(augment(name)(images[rows], ids[rows], draws, 0), together[rows])


@pytest.mark.parametrize("name", ["shift", "crop_flip"])
def test_seeds_epochs_and_views_give_other_pictures(name: str) -> None:
    images, ids = pictures(20), np.arange(20)
    keys = [(Draws(seed=0, epoch=0), 0), (Draws(seed=1, epoch=0), 0), (Draws(epoch=1), 0)]
    results = [augment(name)(images, ids, draws, view) for draws, view in [*keys, (Draws(), 1)]]
    for i, one in enumerate(results):
        assert not any(np.array_equal(one, other) for other in results[:i])


def test_offsets_and_flips_are_uniform() -> None:
    n = 40_000
    spot = np.zeros((n, 9, 9, 1), np.uint8)
    spot[:, 4, 4] = 1
    moved = augment("shift")(spot, np.arange(n), Draws(), 0)
    y, x = np.nonzero(moved[..., 0])[1:]
    counts = np.bincount((y - 2) * 5 + (x - 2), minlength=25)
    chi2 = ((counts - n / 25) ** 2 / (n / 25)).sum()
    assert chi2 < 51.2  # 24 degrees of freedom, p = .001
    ramp = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None], (n, 9, 9, 1))
    flipped = augment("crop_flip")(np.ascontiguousarray(ramp), np.arange(n), Draws(), 0)
    steps = np.diff(flipped[:, 0, :, 0].astype(int), axis=1).sum(axis=1)
    assert 0 < np.abs(steps).max() <= 8


def test_half_of_the_pictures_are_flipped() -> None:
    n, image = 20_000, np.tile(np.arange(16, dtype=np.uint8)[:, None], (16, 1, 1))
    moved = augment("crop_flip")(np.broadcast_to(image, (n, 16, 16, 1)), np.arange(n), Draws(), 0)
    rising = moved[:, 0, 8, 0].astype(int) > moved[:, 0, 7, 0]  # the middle is never reflected
    assert abs(rising.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("name", NAMES)
def test_the_images_given_are_left_alone(name: str) -> None:
    images = pictures(5)
    images.flags.writeable = False
    before = images.copy()
    augment(name)(images, np.arange(5), Draws(), 0)
    assert np.array_equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_are_no_pictures(name: str) -> None:
    assert augment(name)(pictures(0), np.arange(0), Draws(), 0).shape == (0, 8, 6, 3)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'shift'"):
        augment("shfit")
    with pytest.raises(ValueError, match="4x9"):
        augment("crop_flip")(pictures(2, height=4, width=9), np.arange(2), Draws(), 0)
