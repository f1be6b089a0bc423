"""Sum, mean and standard deviation of a filter's weights.

The first two are signed: a filter of large negative weights counts as less than one of zeros, which
says nothing about what it does. They are here because people know them; they come with a caution.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import WEIGHT, Criterion
from raysb.prune.criteria.layers import Layer, filters
from raysb.prune.criteria.statistics import LayerStatistics

_SIGNED = "signed: a filter of large negative weights ranks below one of zeros; l1 ranks by size"


@dataclass(frozen=True, kw_only=True)
class Sum(Criterion):
    """s_j = sum of W[j]."""

    name: ClassVar[str] = "sum"
    needs: ClassVar[frozenset[str]] = WEIGHT
    caution: ClassVar[str] = _SIGNED

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Sums. [out_channels]"""
        return filters(layer).sum(1)


@dataclass(frozen=True, kw_only=True)
class Mean(Criterion):
    """s_j = mean of W[j]."""

    name: ClassVar[str] = "mean"
    needs: ClassVar[frozenset[str]] = WEIGHT
    caution: ClassVar[str] = _SIGNED

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Means. [out_channels]"""
        return filters(layer).mean(1)


@dataclass(frozen=True, kw_only=True)
class Std(Criterion):
    """s_j = sqrt(mean (W[j] - mean W[j])^2), divided by D and not D - 1: 0 for a filter of one."""

    name: ClassVar[str] = "std"
    needs: ClassVar[frozenset[str]] = WEIGHT

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Standard deviations. [out_channels]"""
        return filters(layer).std(1, correction=0)
