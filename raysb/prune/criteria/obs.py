"""Optimal Brain Surgeon: remove weights, and move those that stay to make up for it.

For a layer with weights w and the gradients of n rows in the rows of G, weighted so that G'G / n is
the empirical Fisher information,

    H = lambda I + G'G / n
    H^-1 = (I - G' (n lambda I + G G')^-1 G) / lambda                       (Woodbury)

so nothing of the size of H is ever formed: all that is inverted is n x n, whatever the layer.

References:
    B. Hassibi, D. G. Stork: Second order derivatives for network pruning: Optimal Brain Surgeon,
    NIPS 1992.

Dimensions in comments: n rows, M weights of the layer, C channels, D weights of a filter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from raysb.prune.criteria.base import of
from raysb.prune.criteria.layers import Layer, by_channel, filters, find_layers, num_channels
from raysb.prune.criteria.statistics import LayerStatistics, Statistics
from raysb.prune.criteria.unstructured import WeightCriterion


@dataclass(frozen=True, kw_only=True)
class OBS(WeightCriterion):
    """s_w = w^2 / (2 [H^-1]_ww), and of a channel S as a whole 1/2 w_S' ([H^-1]_SS)^-1 w_S.

    Both are the rise of a quadratic loss at its minimum when w (all of w_S) becomes 0 and the other
    weights of the layer make up for it as best they can:

        dw = -H^-1 E_S ([H^-1]_SS)^-1 w_S

    which `repair` does, for whatever is removed together. The Hessian is that of each layer by
    itself, from the gradients of the newest rows that were kept (`gradient_rows`).

    Args:
        damping: lambda as a share of the mean of the diagonal of G'G / n, above 0. Small values
            trust n rows to describe all directions, and move weights far.

    Raises:
        ValueError: `damping` is not above 0 or not finite.
    """

    name: ClassVar[str] = "obs"
    needs: ClassVar[frozenset[str]] = frozenset({"per_sample_gradient"})

    damping: float = 1e-2

    def __post_init__(self) -> None:
        self._check(0 < self._number("damping") < math.inf, "damping", "a finite number above 0")

    def weight_score(self, name: str, layer: Layer, statistics: LayerStatistics) -> torch.Tensor:
        """Saliencies of single weights, in the shape of the weight."""
        weight = layer.weight.detach().double()
        return (
            weight.square() / 2 / self.hessian(name, statistics).inverse_diagonal().view_as(weight)
        )

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Saliencies of whole filters. [out_channels]"""
        hessian = self.hessian(name, of(statistics))
        pairs = zip(filters(layer), _places(layer), strict=True)
        return torch.stack([hessian.quadratic(row, where) / 2 for row, where in pairs])

    def repair(
        self,
        model: nn.Module,
        masks: Mapping[str, torch.Tensor],
        statistics: Statistics | None,
    ) -> dict[str, torch.Tensor]:
        """Weights with those removed at 0, and the others moved to make up for it.

        Args:
            model: Holds the layers; not changed.
            masks: For each layer bool, False where a weight goes: in the shape of the weight, or
                [out_channels] for whole filters.
            statistics: Of these layers.

        Returns:
            For each layer its new weight, of its dtype, on its device.

        Raises:
            ValueError: A mask has another shape; or as of `importance`.
        """
        known = self._known(statistics)
        layers = find_layers(model, list(masks))
        return {
            name: self._repaired(name, layer, masks[name], None if known is None else known[name])
            for name, layer in layers.items()
        }

    def hessian(self, name: str, statistics: LayerStatistics) -> "Hessian":
        """H of a layer.

        Raises:
            ValueError: No gradients of rows were kept, or they are not finite.
        """
        rows = statistics.gradients.rows()
        if rows is None:
            raise ValueError(
                f"obs: no gradient of a row of layer {name!r} was kept: collect with "
                "gradient_rows=256 or as many as memory allows (4 bytes a row and weight)"
            )
        gradients, u = rows
        if not bool(gradients.isfinite().all()):
            raise ValueError(
                f"obs: gradients of layer {name!r} are NaN or infinite; leave such rows out "
                "(weight 0) and collect again"
            )
        return Hessian(gradients.flatten(1), u, self.damping)

    def _repaired(
        self, name: str, layer: Layer, mask: torch.Tensor, statistics: LayerStatistics | None
    ) -> torch.Tensor:
        weight = layer.weight.detach()
        mask = mask.to(weight.device)
        if mask.dtype == torch.bool and mask.shape == (num_channels(layer),):
            gone = _places(layer)[~mask].flatten()
        elif mask.dtype == torch.bool and mask.shape == weight.shape:
            gone = (~mask).flatten().nonzero().flatten()
        else:
            raise ValueError(
                f"repair: the mask of layer {name!r} is {mask.dtype} {list(mask.shape)}; must be "
                f"bool {list(weight.shape)} or [{num_channels(layer)}]"
            )
        flat = weight.double().flatten()
        moved = flat + self.hessian(name, of(statistics)).repair(flat, gone)
        moved[gone] = 0.0
        return moved.view_as(weight).to(weight.dtype)


def _places(layer: Layer) -> torch.Tensor:
    """Where the weights of each channel lie in the flattened weight. int64 [C, D]"""
    count = torch.arange(layer.weight.numel(), device=layer.weight.device)
    return by_channel(layer, count.view(layer.weight.shape))


class Hessian:
    """H = lambda I + G'G / n of one layer, by its factor.

    Args:
        gradients: [n, M], a row's gradient each.
        u: Weights of the rows [n]; they are scaled to a mean of 1.
        damping: lambda over the mean diagonal of G'G / n; where that is 0, lambda itself.
    """

    def __init__(self, gradients: torch.Tensor, u: torch.Tensor, damping: float) -> None:
        n = len(gradients)
        self.factor = gradients.double() * (u.double() * n / u.sum()).sqrt()[:, None]  # G [n, M]
        diagonal = float(self.factor.square().mean())
        self.ridge = damping * diagonal if diagonal > 0 else damping
        eye = torch.eye(n, dtype=torch.float64, device=gradients.device)
        self._shift = n * self.ridge * eye
        self._gram = self._shift + self.factor @ self.factor.T  # n lambda I + G G' [n, n]

    def inverse_diagonal(self) -> torch.Tensor:
        """[H^-1]_ww for every weight. [M]"""
        lower = torch.linalg.cholesky(self._gram)
        half = torch.linalg.solve_triangular(lower, self.factor, upper=False)
        diagonal: torch.Tensor = (1 - half.square().sum(0)) / self.ridge
        return diagonal

    def inverse_times(self, vector: torch.Tensor) -> torch.Tensor:
        """H^-1 v. [M]"""
        inner = torch.linalg.solve(self._gram, self.factor @ vector)
        product: torch.Tensor = (vector - self.factor.T @ inner) / self.ridge
        return product

    def block_inverse_times(self, vector: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """([H^-1]_SS)^-1 v, the Schur complement of the weights beside S, times v [|S|].

        lambda (v + G_S' (n lambda I + G_R G_R')^-1 G_S v), R the weights that are not in S.
        """
        part = self.factor[:, places]
        others = self._gram - part @ part.T
        inner = torch.linalg.solve(others, part @ vector)
        product: torch.Tensor = self.ridge * (vector + part.T @ inner)
        return product

    def quadratic(self, vector: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The square of v in the metric ([H^-1]_SS)^-1. []"""
        return vector @ self.block_inverse_times(vector, places)

    def repair(self, weights: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
        """Change of all weights [M] when those at places S become 0. [M]"""
        force = torch.zeros_like(weights)
        force[gone] = self.block_inverse_times(weights[gone], gone)
        return -self.inverse_times(force)
