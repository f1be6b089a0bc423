"""Connection sensitivity: what to remove before training begins."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics, Statistics
from raysb.prune.criteria.unstructured import WeightCriterion


@dataclass(frozen=True, kw_only=True)
class SNIP(WeightCriterion):
    """s_w = |w dL/dw| / sum over all weights of |w dL/dw|; of a channel the sum over its filter.

    L is the mean loss of the rows that were collected, in the source one batch at initialisation:
    collect over that batch on the freshly built model and ask for `masks`.

    References:
        N. Lee, T. Ajanthan, P. H. S. Torr: SNIP: Single-shot Network Pruning based on Connection
        Sensitivity, 2019. https://arxiv.org/abs/1810.02340
    """

    name: ClassVar[str] = "snip"
    needs: ClassVar[frozenset[str]] = frozenset({"per_sample_gradient"})

    def weight_score(self, name: str, layer: Layer, statistics: LayerStatistics) -> torch.Tensor:
        """|w dL/dw|, in the shape of the weight."""
        return (statistics.mean("gradient") * layer.weight.detach()).abs()

    def weight_scores(
        self, layers: dict[str, Layer], statistics: Statistics | None
    ) -> dict[str, torch.Tensor]:
        """Sensitivities, which add up to 1 over the layers."""
        return _shares(super().weight_scores(layers, statistics))

    def scores(
        self, layers: dict[str, Layer], statistics: Statistics | None
    ) -> dict[str, torch.Tensor]:
        """Sums over the filters, which add up to 1 over the layers."""
        return _shares(super().scores(layers, statistics))


def _shares(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    total = sum(float(each.sum()) for each in scores.values())
    return {name: each / total if total else each for name, each in scores.items()}
