"""How often a channel is active."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class APoZ(Criterion):
    """s_j = 1 - mean over rows and positions of [a_j == 0].

    One minus the average percentage of zeros: the share of the activations that are not 0, which
    means something after functions that give zeros (ReLU); after others all channels are alike.

    References:
        H. Hu, R. Peng, Y.-W. Tai, C.-K. Tang: Network Trimming: A Data-Driven Neuron Pruning
        Approach towards Efficient Deep Architectures, 2016. https://arxiv.org/abs/1607.03250
    """

    name: ClassVar[str] = "apoz"
    needs: ClassVar[frozenset[str]] = frozenset({"activation"})

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Shares of activations that are not 0, in [0, 1]. [out_channels]"""
        return 1 - of(statistics).mean("zeros")
