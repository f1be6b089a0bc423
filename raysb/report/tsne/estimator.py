"""Exact t-SNE in torch, with the names of scikit-learn.

Rows become points of the plane so that neighbours stay neighbours: with P how likely two rows are
neighbours in the data and Q on the map, KL(P || Q) is made small by gradient descent. The first 250
iterations multiply P (`early_exaggeration`), so that clusters find together before they spread.

References:
    L. van der Maaten, G. Hinton: Visualizing Data using t-SNE, 2008.
    https://www.jmlr.org/papers/v9/vandermaaten08a.html
    A. Belkina et al.: Automated optimized parameters for T-distributed stochastic neighbor
    embedding, 2019, for the learning rate. https://doi.org/10.1038/s41467-019-13055-y

Dimensions in comments: n rows, D features, K components of the map.
"""

from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from raysb.report.tsne.affinities import joint_probabilities, squared_distances
from raysb.report.tsne.descent import Descent, Divergence
from raysb.report.tsne.start import given_points, principal_components, random_points

EXPLORATION = 250  # iterations with exaggeration and the smaller momentum
MOMENTUM = (0.5, 0.8)  # then and after


@dataclass(eq=False)
class TSNE:
    """Exact t-SNE: n rows of D features become n points of `n_components` coordinates.

        tsne = raysb.report.TSNE(perplexity=30, random_state=0)
        points = tsne.fit_transform(features)                    # [n, 2]

    Names, defaults and meaning are scikit-learn's `TSNE(method="exact")`, and on a CPU so are the
    points, though every iteration amplifies rounding: of float64 rows where scikit-learn's PCA is
    exact (at most 500 rows and features, or 10 rows a feature), from given points, and from the
    draws of a seed. Of other rows give both the same `init`; else their maps differ as two of
    scikit-learn's do that begin 1e-7 apart, by up to 9 % in KL (300 digits). Above two dimensions
    this descends along the gradient of KL, and scikit-learn does not. Time and memory grow with
    n^2: 500 rows take one to two seconds on one core.

    Args:
        n_components: Dimensions of the map, at least 1.
        perplexity: Neighbours that a row has in effect, at least 1 and below n.
        early_exaggeration: Factor on P in the first 250 iterations, at least 1.
        learning_rate: Above 0; `"auto"`: max(n / early_exaggeration / 4, 50).
        max_iter: Iterations at most, at least 1 (scikit-learn: 250).
        n_iter_without_progress: After the exaggeration it ends where the divergence did not fall
            for so many iterations; looked at every 50.
        min_grad_norm: It ends where the norm of the gradient is at most this.
        init: `"pca"`: the principal components, the same at each call; `"random"`; or points
            [n, K], as the embedding of an earlier moment.
        random_state: Seed of `init="random"`, or a numpy generator; `None`: another one each time.
            Draws of a number are those of scikit-learn.
        device: Where torch computes, `"cpu"` or `"cuda"`.

    Attributes:
        embedding_: float32 [n, K].
        kl_divergence_: KL(P || Q) of the embedding, in nats.
        n_iter_: Iterations that it took (scikit-learn: one less).
        learning_rate_: That was used.
        n_features_in_: D.

    Raises:
        ValueError: A value is out of range.
    """

    n_components: int = 2
    _: KW_ONLY
    perplexity: float = 30.0
    early_exaggeration: float = 12.0
    learning_rate: float | Literal["auto"] = "auto"
    max_iter: int = 1000
    n_iter_without_progress: int = 300
    min_grad_norm: float = 1e-7
    init: Literal["pca", "random"] | npt.NDArray[np.number] | torch.Tensor = "pca"
    random_state: int | np.random.Generator | None = None
    device: torch.device | str = "cpu"

    embedding_: npt.NDArray[np.float32] = field(init=False, repr=False)
    kl_divergence_: float = field(init=False, repr=False)
    n_iter_: int = field(init=False, repr=False)
    learning_rate_: float = field(init=False, repr=False)
    n_features_in_: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        least = {
            **{"n_components": 1, "perplexity": 1, "early_exaggeration": 1, "max_iter": 1},
            **{"n_iter_without_progress": -1, "min_grad_norm": 0},
        }
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"TSNE({name}={getattr(self, name)}): must be at least {bound}")
        rate = self.learning_rate
        if rate != "auto" and (isinstance(rate, str) or not rate > 0):
            raise ValueError(f"TSNE(learning_rate={rate!r}): must be above 0, or 'auto'")
        if isinstance(self.init, str) and self.init not in ("pca", "random"):
            raise ValueError(
                f"TSNE(init={self.init!r}): must be 'pca', 'random' or an array of points"
            )

    def fit_transform(self, X: Any, y: Any = None) -> npt.NDArray[np.float32]:
        """Embed rows; the same rows, arguments and seed give the same points.

        Args:
            X: Features, array or tensor of finite numbers [n, D].
            y: Nothing; pipelines of scikit-learn pass it.

        Returns:
            float32 [n, K], `embedding_`.

        Raises:
            ValueError: There are not more rows than `perplexity`, or X is no such array.
        """
        rows = self._checked(X)
        joint = joint_probabilities(squared_distances(rows), self.perplexity)
        points = self._start(rows).to(rows.device, torch.float32).contiguous()
        self.n_features_in_ = rows.shape[1]
        self.learning_rate_ = self._rate(len(rows))
        self.n_iter_ = self._descend(joint, points)
        self.kl_divergence_ = Divergence(joint, self.n_components).value(points)
        self.embedding_ = points.cpu().numpy()
        return self.embedding_

    def fit(self, X: Any, y: Any = None) -> Self:
        """As `fit_transform`, but returns the object."""
        self.fit_transform(X)
        return self

    def _checked(self, given: Any) -> torch.Tensor:
        """The rows in float64, on the device. [n, D]"""
        rows = torch.as_tensor(given).detach().to(self.device, torch.float64)
        if rows.dim() != 2 or 0 in rows.shape:
            raise ValueError(
                f"TSNE.fit: X must be of shape (n, D), at least one of both; {tuple(rows.shape)} "
                "was given"
            )
        if not rows.isfinite().all():
            raise ValueError("TSNE.fit: X has NaN or infinite values; leave these rows out first")
        if self.perplexity >= len(rows):
            raise ValueError(
                f"TSNE(perplexity={self.perplexity}): must be less than the number of rows, "
                f"{len(rows)}, since no row has so many neighbours; take fewer, or more rows"
            )
        return rows

    def _start(self, rows: torch.Tensor) -> torch.Tensor:
        if isinstance(self.init, str):
            if self.init == "pca":
                return principal_components(rows, self.n_components)
            return random_points(len(rows), self.n_components, self.random_state)
        return given_points(self.init, len(rows), self.n_components)

    def _rate(self, rows: int) -> float:
        if self.learning_rate == "auto":
            return max(rows / self.early_exaggeration / 4, 50.0)
        return float(self.learning_rate)

    def _descend(self, joint: torch.Tensor, points: torch.Tensor) -> int:
        """Explore, then settle: moves the points in place; returns the iterations of both."""
        descent = Descent(learning_rate=self.learning_rate_, least_gradient=self.min_grad_norm)
        explored = descent.run(
            Divergence(joint * self.early_exaggeration, self.n_components),
            points,
            iterations=min(EXPLORATION, self.max_iter),
            momentum=MOMENTUM[0],
            patience=EXPLORATION,
        )
        return explored + descent.run(
            Divergence(joint, self.n_components),
            points,
            iterations=self.max_iter - explored,
            momentum=MOMENTUM[1],
            patience=self.n_iter_without_progress,
        )
