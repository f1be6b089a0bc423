"""Where the points of a map begin.

Dimensions in comments: n rows, D features, K components of the map.
"""

import numpy as np
import numpy.typing as npt
import torch

SPREAD = 1e-4  # standard deviation of the first component


def principal_components(rows: torch.Tensor, components: int) -> torch.Tensor:
    """The first K principal components, scaled so that the first has deviation `SPREAD`. [n, K]

    Signs are those that make the largest loading of each component positive, as in scikit-learn.

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
    found: torch.Tensor = centred @ (axes * largest.sign()).T
    scale = SPREAD / float(found[:, 0].std(correction=0))
    return found.mul_(scale)


def random_points(
    rows: int, components: int, seed: int | np.random.Generator | None
) -> torch.Tensor:
    """Normal draws of deviation `SPREAD`. float64 [n, K]"""
    drawn = np.random.default_rng(seed).standard_normal((rows, components))
    return torch.from_numpy(drawn * SPREAD)


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
