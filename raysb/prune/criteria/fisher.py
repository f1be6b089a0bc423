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
    Fisher information of a gate on it (Theis 2018, eq. 8); C_j are the multiply-adds for one row
    that the net does less without the channel: those of its own layer and of the layers that read
    it (`raysb.prune.costs.macs_by_channel`). Statistics that do not know the whole net
    (`Statistics.with_macs` adds it) give those of its own layer, (weights of the filter) x
    (positions of the output).

    Args:
        beta: Loss that one multiply-add is worth, at least 0.

    Raises:
        ValueError: `beta` is below 0, not finite, or no number.

    References:
        L. Theis, I. Korshunova, A. Tejani, F. Huszar: Faster gaze prediction with dense networks
        and Fisher pruning, 2018. https://arxiv.org/abs/1801.05787
    """

    name: ClassVar[str] = "fisher"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    beta: float = 0.0

    def __post_init__(self) -> None:
        self._check(0 <= self._number("beta") < math.inf, "beta", "a finite number of at least 0")

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Estimated rise of the loss less the cost. [out_channels]"""
        known = of(statistics)
        own = filters(layer).shape[1] * known.positions
        macs = own if known.macs is None else known.macs
        return known.mean("gate_squared") / 2 - self.beta * macs
