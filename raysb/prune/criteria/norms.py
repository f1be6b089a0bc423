"""The norm of a filter's weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.linalg import vector_norm

from raysb.prune.criteria.base import WEIGHT, Criterion
from raysb.prune.criteria.layers import Layer, filters
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class L1(Criterion):
    """s_j = sum |W[j]|.

    References:
        H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf: Pruning Filters for Efficient
        ConvNets, 2017. https://arxiv.org/abs/1608.08710
    """

    name: ClassVar[str] = "l1"
    needs: ClassVar[frozenset[str]] = WEIGHT

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Norms. [out_channels]"""
        norms: torch.Tensor = vector_norm(filters(layer), 1, dim=1)
        return norms


@dataclass(frozen=True, kw_only=True)
class L2(Criterion):
    """s_j = sqrt(sum W[j]^2)."""

    name: ClassVar[str] = "l2"
    needs: ClassVar[frozenset[str]] = WEIGHT

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Norms. [out_channels]"""
        norms: torch.Tensor = vector_norm(filters(layer), 2, dim=1)
        return norms
