"""The rows of the frontier benchmark: MNIST as it is, and what selection might profit from.

A regime is a function of images, labels and a seed; the same rows for every method and run seed.

N rows, H height, W width in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raysb.source.open import open_sources
from raysb.source.settings import Data

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NUM_CLASSES = 10
COPIES = 24  # of each original that is repeated
MAX_SHIFT = 2  # pixels, of a copy
BRIGHTNESS = (0.7, 1.3)  # factor, of a copy
NOISE = 12.0  # standard deviation in grey values of 0..255, of a copy
WRONG_SHARE = 0.2
SMALLEST_CLASS = 1 / 20  # of the largest, in the imbalanced rows
TEST_DEGREES, TEST_SHIFT = 30.0, 3.0  # the moved test rows: at most so far, either way


@dataclass(frozen=True)
class Rows:
    """Rows to train on, and what nobody tells the trainer.

    Args:
        image: uint8 [N, H, W, 1].
        label: int64 [N], as trained on.
        origin: int64 [N], number of the original that a row shows; copies share it.
        wrong: bool [N], whether the label is not that of the original.
    """

    image: Pixels
    label: Ints
    origin: Ints
    wrong: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Ints) -> "Rows":
        """Some of the rows."""
        return Rows(self.image[rows], self.label[rows], self.origin[rows], self.wrong[rows])

    @property
    def copied(self) -> npt.NDArray[np.bool_]:
        """Whether other rows show the same original, bool [N]."""
        return np.bincount(self.origin)[self.origin] > 1


@dataclass(frozen=True)
class Digits:
    """A training and a test set. Images uint8 [N, H, W, 1], labels int64 [N]."""

    image: Pixels
    label: Ints
    test_image: Pixels
    test_label: Ints


def load(folder: str | None, limit: int | None = None) -> Digits:
    """The digits of a folder with `train*.parquet` and `test*.parquet`; without one, `mnist5k`.

    Args:
        folder: Where the parquet lies.
        limit: Training rows to use at most, a fixed random choice.
    """
    data = Data()
    if folder is not None:
        data = Data(train=f"{folder}/train*.parquet", test=f"{folder}/test*.parquet")
    sources = open_sources(data, seed=0)
    assert sources.eval is not None
    train, test = (s.read(None, 0, s.num_rows) for s in (sources.train, sources.eval))
    chosen = np.arange(len(train["label"]))
    if limit is not None and limit < len(chosen):
        chosen = np.random.default_rng(0).permutation(len(chosen))[:limit]
    return Digits(
        np.asarray(train["image"][chosen], np.uint8),
        np.asarray(train["label"][chosen], np.int64),
        np.asarray(test["image"], np.uint8),
        np.asarray(test["label"], np.int64),
    )


def test_rows(digits: Digits) -> tuple[Pixels, Ints]:
    """The real test rows, and after them each of them shifted and rotated; the same always."""
    count = len(digits.test_label)
    random = np.random.default_rng(1)
    angle = np.deg2rad(random.uniform(-TEST_DEGREES, TEST_DEGREES, count))
    places = random.uniform(-TEST_SHIFT, TEST_SHIFT, (count, 2))
    moved = _moved(digits.test_image, angle, places)
    return np.concatenate([digits.test_image, moved]), np.tile(digits.test_label, 2)


def _moved(
    images: Pixels, angle: npt.NDArray[np.float64], places: npt.NDArray[np.float64]
) -> Pixels:
    """Images turned about their middle by `angle` and shifted by `places` pixels, bilinear."""
    cos, sin = np.cos(angle), np.sin(angle)
    shift = places * 2 / np.array([images.shape[2], images.shape[1]])
    matrix = np.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], axis=1).reshape(-1, 2, 3)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.from_numpy(matrix).float(), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, align_corners=False)
    turned: Pixels = moved.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return turned


def clean(image: Pixels, label: Ints, seed: int = 0) -> Rows:
    """The rows as they are."""
    count = len(label)
    return Rows(image, label, np.arange(count), np.zeros(count, np.bool_))


def near_duplicates(image: Pixels, label: Ints, seed: int = 0) -> Rows:
    """Few originals make 80 % of the rows as near copies; the other 20 % appear once.

    Of N rows N/30 are copied 24 times each, as many of each class; N/5 others are left as they
    are. A copy is shifted by up to 2 pixels each way, brighter or darker, and noisy; it is the
    same copy in every epoch. No two rows are equal, so that removing equal rows does not help.
    """
    random = np.random.default_rng((seed, 1))
    per_class = len(label) // 30 // NUM_CLASSES
    order = random.permutation(len(label))
    originals = np.concatenate(
        [order[label[order] == digit][:per_class] for digit in range(NUM_CLASSES)]
    )
    singles = order[~np.isin(order, originals)][: len(label) // 5]
    copies = np.repeat(originals, COPIES)
    pixels = np.concatenate([_near_copies(image[copies], random), image[singles]])
    origin = np.concatenate([copies, singles])
    mixed = random.permutation(len(origin))
    wrong = np.zeros(len(origin), np.bool_)
    return Rows(pixels, label[origin], origin, wrong).take(mixed)


def _near_copies(images: Pixels, random: np.random.Generator) -> Pixels:
    count, height, width, _ = images.shape
    border = ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0))
    padded = np.pad(images, border)
    top, left = random.integers(0, 2 * MAX_SHIFT + 1, (2, count))
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    shifted = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    factor = random.uniform(*BRIGHTNESS, (count, 1, 1, 1)).astype(np.float32)
    noise = random.standard_normal(images.shape, np.float32) * np.float32(NOISE)
    copies: Pixels = np.clip(np.rint(shifted * factor + noise), 0, 255).astype(np.uint8)
    return copies


def near_duplicates_wrong_labels(image: Pixels, label: Ints, seed: int = 0) -> Rows:
    """`near_duplicates`, 20 % of whose rows have a label drawn from the other nine classes."""
    return with_wrong_labels(near_duplicates(image, label, seed), WRONG_SHARE, seed)


def with_wrong_labels(rows: Rows, share: float, seed: int = 0) -> Rows:
    """The rows, a share of which has a label drawn from the other nine classes."""
    random = np.random.default_rng((seed, 2))
    chosen = random.permutation(len(rows))[: round(share * len(rows))]
    labels, wrong = rows.label.copy(), rows.wrong.copy()
    labels[chosen] = (labels[chosen] + random.integers(1, NUM_CLASSES, len(chosen))) % NUM_CLASSES
    wrong[chosen] = True
    return replace(rows, label=labels, wrong=wrong)


def imbalanced(image: Pixels, label: Ints, seed: int = 0) -> Rows:
    """Class sizes that fall by a constant factor, the last a twentieth of the first."""
    random = np.random.default_rng((seed, 3))
    order = random.permutation(len(label))
    largest = np.bincount(label, minlength=NUM_CLASSES).min()
    sizes = largest * SMALLEST_CLASS ** (np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    kept = [
        order[label[order] == digit][: round(size)]
        for digit, size in zip(range(NUM_CLASSES), sizes, strict=True)
    ]
    rows = random.permutation(np.concatenate(kept))
    return Rows(image[rows], label[rows], rows, np.zeros(len(rows), np.bool_))


REGIMES: dict[str, Callable[..., Rows]] = {
    "near_duplicates": near_duplicates,
    "clean": clean,
    "near_duplicates_wrong_labels": near_duplicates_wrong_labels,
    "imbalanced": imbalanced,
}


def every(rows: Rows) -> Rows:
    """All rows."""
    return rows


def without_equal_rows(rows: Rows) -> Rows:
    """The first of all rows with the same pixels: what a hash of the content can remove."""
    content = rows.image.reshape(len(rows), -1)
    first = np.unique(content, axis=0, return_index=True)[1]
    return rows.take(np.sort(first))


def one_of_each_original(rows: Rows) -> Rows:
    """One row of each original: what only somebody who knows the copies could remove."""
    return rows.take(np.sort(np.unique(rows.origin, return_index=True)[1]))


REDUCTIONS: dict[str, Callable[[Rows], Rows]] = {
    "every": every,
    "without_equal_rows": without_equal_rows,
    "one_of_each_original": one_of_each_original,
}


def hold_out(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """A random share of the rows, and the others. Copies of one original may be on both sides."""
    order = np.random.default_rng((seed, 4)).permutation(len(rows))
    count = round(share * len(rows))
    return rows.take(np.sort(order[:count])), rows.take(np.sort(order[count:]))


def folder_of(path: str | None) -> str | None:
    """A folder, absolute, that exists.

    Raises:
        FileNotFoundError: It does not.
    """
    if path is None:
        return None
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"--data {path}: no such folder; it must hold train*.parquet and test*.parquet"
        )
    return str(Path(path).absolute())
