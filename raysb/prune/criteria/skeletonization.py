"""The derivative of the loss by a gate on each channel."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class Skeletonization(Criterion):
    """s_j = - dL/d alpha_j at alpha = 1, where alpha_j multiplies the activation of channel j.

    L is the mean loss, so s_j = - mean_n sum over positions of a_jn dl_n/da_jn: to first order the
    loss without the channel less the loss with it. Signed: channels without which the loss would
    fall go first. The source takes a linear error here even where it trains on a squared one.

    References:
        M. C. Mozer, P. Smolensky: Skeletonization: A Technique for Trimming the Fat from a Network
        via Relevance Assessment, NIPS 1988.
    """

    name: ClassVar[str] = "skeletonization"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Relevances. [out_channels]"""
        return -of(statistics).mean("gate")
