"""Distance from the geometric median of a layer's filters."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import WEIGHT, Criterion
from raysb.prune.criteria.layers import Layer, filters
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class FPGM(Criterion):
    """s_j = sum_i || W[j] - W[i] ||_2, on the signed weights.

    The filter closest to the geometric median is what the others can best stand in for, and goes
    first, however large it is.

    References:
        Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang: Filter Pruning via Geometric Median for Deep
        Convolutional Neural Networks Acceleration, 2019. https://arxiv.org/abs/1811.00250
    """

    name: ClassVar[str] = "fpgm"
    needs: ClassVar[frozenset[str]] = WEIGHT

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Sums of distances. [out_channels]"""
        rows = filters(layer)
        # through a matrix product the distance of near filters would be rounding error
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(rows, rows, compute_mode=exact).sum(1)
