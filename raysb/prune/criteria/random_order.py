"""Any order: what every other criterion has to beat."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import WEIGHT, Criterion
from raysb.prune.criteria.layers import Layer, num_channels
from raysb.prune.criteria.statistics import LayerStatistics
from raysb.seeding import generator


@dataclass(frozen=True, kw_only=True)
class Random(Criterion):
    """s_j uniform in [0, 1), keyed by (seed, layer): the same in every process.

    Args:
        seed: Any whole number.

    Raises:
        ValueError: `seed` is no whole number.
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[frozenset[str]] = WEIGHT

    seed: int = 0

    def __post_init__(self) -> None:
        self._check(type(self.seed) is int, "seed", "a whole number")

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Draws. [out_channels]"""
        draws = generator(self.seed, "prune", name).random(num_channels(layer))
        return torch.from_numpy(draws)
