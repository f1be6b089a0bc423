"""Fisher information of a gate on a channel, less what the channel costs."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer, filters
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class Fisher(Criterion):
    """s_j = 1/(2N) sum_n ( sum over positions of a_jn dl_n/da_jn )^2 - beta C_j.

    The first term estimates the rise of the loss when the channel is removed, by the empirical
    Fisher information of a gate on it (Theis 2018, eq. 8); C_j are the multiply-adds that the
    layer spends on the channel for one row, (weights of the filter) x (positions of the output).
    What later layers spend on it is not counted here.

    Args:
        beta: Loss that one multiply-add is worth, at least 0.

    Raises:
        ValueError: `beta` is below 0 or not finite.

    References:
        L. Theis, I. Korshunova, A. Tejani, F. Huszar: Faster gaze prediction with dense networks
        and Fisher pruning, 2018. https://arxiv.org/abs/1801.05787
    """

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    beta: float = 0.0

    def __post_init__(self) -> None:
        self._check(0 <= self.beta < math.inf, "beta", "a finite number of at least 0")

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Estimated rise of the loss less the cost. [out_channels]"""
        known = of(statistics)
        macs = filters(layer).shape[1] * known.positions
        return known.mean("gate_squared") / 2 - self.beta * macs
