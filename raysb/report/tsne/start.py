"""Where the points of a map begin.

Dimensions in comments: n rows, D features, K components of the map.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

SPREAD = 1e-4  # standard deviation of the first component


def principal_components(rows: torch.Tensor, components: int) -> torch.Tensor:
    """The first K principal components, scaled so that the first has deviation `SPREAD`.

    Signs are those that make the largest loading of each component positive, and rounding is to
    float32 before it is scaled, as in scikit-learn.

    Returns:
        float32 [n, K], on the CPU.

    Raises:
        ValueError: There are fewer components, or all rows are equal.
    """
    if components > min(rows.shape):
        raise ValueError(
            f"TSNE(n_components={components}, init='pca'): rows of shape {tuple(rows.shape)} have "
            f"only {min(rows.shape)} principal components; take init='random'"
        )
    centred = rows - rows.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    if values[0] <= 0:
        raise ValueError(
            "TSNE(init='pca'): all rows are equal, so there are no principal components to start "
            "from; take init='random', or check the features"
        )
    axes = axes[:components]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    found = (centred @ (axes * largest.sign()).T).cpu().numpy()
    found = (found / 2.0 ** math.frexp(float(values[0]))[1]).astype(np.float32)  # no overflow
    return torch.from_numpy(found / np.std(found[:, 0]) * SPREAD)


def random_points(
    rows: int, components: int, seed: int | np.random.Generator | None
) -> torch.Tensor:
    """Normal draws of deviation `SPREAD`, of a number as seed those of scikit-learn. [n, K]"""
    source: Any = seed if isinstance(seed, np.random.Generator) else np.random.RandomState(seed)
    drawn = source.standard_normal(size=(rows, components)).astype(np.float32)
    return torch.from_numpy(drawn * np.float32(SPREAD))


def given_points(
    given: npt.NDArray[np.number] | torch.Tensor, rows: int, components: int
) -> torch.Tensor:
    """Points that the caller chose. float64 [n, K]

    Raises:
        ValueError: They are not one finite point a row.
    """
    points = torch.as_tensor(given).detach().to("cpu", torch.float64, copy=True)
    if points.shape != (rows, components) or not points.isfinite().all():
        raise ValueError(
            f"TSNE(init=array of shape {tuple(points.shape)}): finite points of shape "
            f"({rows}, {components}) are needed, one a row of X"
        )
    return points
