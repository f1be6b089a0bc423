"""Criteria that rank single weights: masks of weights beside the importance of channels."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer, by_channel, find_layers
from raysb.prune.criteria.statistics import LayerStatistics, Statistics


@dataclass(frozen=True, kw_only=True)
class WeightCriterion(Criterion):
    """A criterion with a value s_w for each weight; of a channel, by default their sum."""

    @abstractmethod
    def weight_score(self, name: str, layer: Layer, statistics: LayerStatistics) -> torch.Tensor:
        """Importance of each weight of a layer. float64, in the shape of the weight"""

    def weight_scores(
        self, layers: dict[str, Layer], statistics: Statistics | None
    ) -> dict[str, torch.Tensor]:
        """Importance of each weight, comparable between the layers."""
        known = self._known(statistics)
        if known is None:
            raise ValueError(f"{self.name}: needs statistics")
        return {name: self.weight_score(name, layer, known[name]) for name, layer in layers.items()}

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Sums over the filters. [out_channels]"""
        return by_channel(layer, self.weight_score(name, layer, of(statistics))).sum(1)

    def masks(
        self,
        model: nn.Module,
        amount: int | float,
        layers: Sequence[str],
        statistics: Statistics | None = None,
    ) -> dict[str, torch.Tensor]:
        """Which weights stay, when the least important of all layers together go.

        Args:
            model: Holds the layers.
            amount: How many weights go: a share in (0, 1) or a number, as in torch.nn.utils.prune.
            layers: Names.
            statistics: Of these layers.

        Returns:
            For each layer bool in the shape of its weight, on its device, False where it goes.

        Raises:
            ValueError: `amount` would remove nothing or everything; or as of `importance`.
        """
        scores = self.weight_scores(find_layers(model, layers), statistics)
        return least_first(
            {n: self._finite(n, each.flatten()).view_as(each) for n, each in scores.items()}, amount
        )


def least_first(scores: Mapping[str, torch.Tensor], amount: int | float) -> dict[str, torch.Tensor]:
    """Masks that are False for exactly the asked number of lowest scores; of equal ones the first.

    Args:
        scores: Of any shapes.
        amount: A share in (0, 1) of all scores, rounded to a number, or a number.

    Raises:
        ValueError: It would remove nothing or everything.
        TypeError: It is no number.
    """
    flat = torch.cat([values.flatten() for values in scores.values()])
    count = _number(amount, len(flat))
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.argsort(stable=True)[:count]] = False
    parts = torch.split(kept, [values.numel() for values in scores.values()])
    named = zip(scores.items(), parts, strict=True)
    return {name: part.view_as(values) for (name, values), part in named}


def _number(amount: int | float, total: int) -> int:
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        raise TypeError(f"amount={amount!r}: must be a share in (0, 1) or a whole number")
    if isinstance(amount, float) and not 0 < amount < 1:
        raise ValueError(f"amount={amount}: a share must be above 0 and below 1; a count is an int")
    count = amount if isinstance(amount, int) else round(amount * total)
    if not 0 < count < total:
        raise ValueError(
            f"amount={amount}: {count} of {total} weights would go; at least one must go and one "
            "stay"
        )
    return count
