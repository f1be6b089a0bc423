"""Smaller pictures are those of PIL's bilinear filter, and nothing but pictures gets smaller."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from raysb import losses
from raysb.errors import ModelError
from raysb.schema import ID
from raysb.scoring.forward import score
from raysb.scoring.registry import find_score
from raysb.scoring.resize import shrink
from raysb.task import Task, inputs, to_tensors


class Pooled(nn.Module):
    """Takes pictures of any size."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3)))


def task(model=Pooled, loss=None, **args) -> Task:
    forward = args.pop("forward", inputs("image"))
    return Task(model=model, forward=forward, loss=loss or losses.cross_entropy(), **args)


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def batch(**columns) -> dict[str, torch.Tensor]:
    return to_tensors(columns | {"label": np.zeros(len(next(iter(columns.values()))), np.int64)})


def by_pil(channel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with antialias on one channel; of bytes PIL would round twice."""
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.7])
def test_bytes_are_resized_as_pil_does_it_rounded_and_stay_bytes(scale) -> None:
    colour, grey = pictures(3, 20, 12, 3), pictures(3, 20, 12)
    height, width = round(20 * scale), round(12 * scale)
    small = shrink(task(), batch(image=colour), scale)["image"]
    assert small.dtype == torch.uint8
    assert small.shape == (3, height, width, 3)
    for picture in range(3):
        for channel in range(3):
            wanted = by_pil(colour[picture, :, :, channel], height, width)
            assert np.abs(small[picture, :, :, channel].numpy() - wanted).max() <= 0.501
    small = shrink(task(), batch(image=grey), scale)["image"]
    assert small.shape == (3, height, width)
    assert np.abs(small[0].numpy() - by_pil(grey[0], height, width)).max() <= 0.501


def test_floats_with_channels_first_are_pictures_and_a_side_keeps_a_pixel() -> None:
    constant = np.full((2, 3, 9, 1), 0.7, np.float32)
    small = shrink(task(), batch(image=constant), 0.3)["image"]
    assert small.shape == (2, 3, 3, 1)
    torch.testing.assert_close(small, torch.full_like(small, 0.7))


def test_only_what_the_model_sees_gets_smaller() -> None:
    mask = np.zeros((2, 8, 8), np.uint8)
    given = batch(image=pictures(2, 8, 8, 3), mask=mask)
    assert shrink(task(), given, 0.5)["mask"].shape == (2, 8, 8)
    by_function = task(forward=lambda m, b: m(b["image"]), loss=losses.cross_entropy("mask"))
    small = shrink(by_function, given, 0.5)
    assert (small["image"].shape, small["mask"].shape) == ((2, 4, 4, 3), (2, 8, 8))
    assert shrink(task(), given, 1.0) is given


def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (100, 4, 4, 3), np.uint8)
    image = np.stack([np.asarray(Image.fromarray(c).resize((16, 16))) for c in coarse])
    return {"image": image, "label": rng.integers(0, 5, 100), ID: np.arange(100)}


def test_a_model_is_scored_on_the_small_pictures_and_ranks_them_much_as_the_large() -> None:
    torch.manual_seed(0)
    model, rows = Pooled(), data()
    full, half = (score(task(), model, rows, image_scale=s) for s in (1.0, 0.5))
    by_hand = {
        **rows,
        "image": np.stack(
            [
                np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BILINEAR))
                for image in rows["image"]
            ]
        ),
    }
    np.testing.assert_allclose(half.losses, score(task(), model, by_hand).losses, atol=1e-3)
    assert half.scores is half.losses
    assert not np.array_equal(half.losses, full.losses)
    assert spearmanr(half.losses, full.losses).statistic > 0.9
    bound = score(task(), model, rows, image_scale=0.5, by=find_score("gradient_norm_bound"))
    np.testing.assert_array_equal(bound.losses, half.losses)


@pytest.mark.parametrize("scale", [0, -1, 1.5, float("nan")])
def test_a_scale_out_of_range_is_refused(scale) -> None:
    with pytest.raises(ValueError, match=rf"image_scale={scale}: must be above 0 and at most 1"):
        score(task(), Pooled(), data(), image_scale=scale)


def test_rows_without_pictures_and_models_of_one_size_are_told_what_to_do() -> None:
    rows = {"image": np.zeros((2, 5), np.float32), "label": np.zeros(2, np.int64)}
    with pytest.raises(ModelError, match=r"image_scale=0.5: no column holds pictures.*Leave"):
        score(task(), nn.Linear(5, 5), rows, image_scale=0.5)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 5))
    score(task(), fixed, data())
    with pytest.raises(ModelError, match=r"(?s)image_scale=0.5 made .* one size only"):
        score(task(), fixed, data(), image_scale=0.5)
