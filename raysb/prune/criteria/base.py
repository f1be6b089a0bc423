"""What every criterion has in common: importance of output channels, higher is kept."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from raysb.prune.criteria.layers import Layer, find_layers
from raysb.prune.criteria.statistics import LayerStatistics, Statistics

WEIGHT = frozenset({"weight"})


@dataclass(frozen=True, kw_only=True)
class Criterion(ABC):
    """Ranks the output channels of layers; hyperparameters are the fields of the subclasses.

    Attributes:
        name: As in `CRITERIA`.
        needs: Kinds of statistics, of `weight`, `activation`, `gradient`, `per_sample_gradient`.
        caution: What to tell who asks for it, where its order is known to mean little.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    caution: ClassVar[str] = ""

    def importance(
        self, model: nn.Module, layers: Sequence[str], statistics: Statistics | None = None
    ) -> dict[str, torch.Tensor]:
        """How much each output channel is worth.

        Args:
            model: Holds the layers.
            layers: Names of convolutions and linear layers, as in `named_modules`.
            statistics: Of these layers; none where only weights are needed.

        Returns:
            For each layer float64 [out_channels], finite, on the CPU; higher = keep.

        Raises:
            ValueError: There is no such layer, statistics are missing, or something is not finite.
        """
        found = self.scores(find_layers(model, layers), statistics)
        return {name: self._finite(name, values) for name, values in found.items()}

    def scores(
        self, layers: dict[str, Layer], statistics: Statistics | None
    ) -> dict[str, torch.Tensor]:
        """Importance as the formulas give it, layer by layer."""
        known = self._known(statistics)
        return {
            name: self.score(name, layer, None if known is None else known[name])
            for name, layer in layers.items()
        }

    @abstractmethod
    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Importance of one layer's channels. float [out_channels]"""

    def _known(self, statistics: Statistics | None) -> Statistics | None:
        """The statistics, if they hold what is needed; `None` where nothing is."""
        wanted = self.needs - WEIGHT
        if not wanted:
            return None
        missing = wanted - (statistics.needs if statistics is not None else frozenset())
        if statistics is None or missing:
            raise ValueError(
                f"{self.name}.importance(statistics={_kinds(statistics)}): needs "
                f"{', '.join(sorted(wanted))}: collect(..., needs={set(wanted)})"
            )
        return statistics

    def _finite(self, name: str, values: torch.Tensor) -> torch.Tensor:
        if bool(values.isfinite().all()):
            return values.detach().double().cpu()
        bad = (~values.isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"{self.name}: the importance of {len(bad)} of {len(values)} channels of layer "
            f"{name!r} is not finite (channel {bad[0]} first), so nothing can be ranked: "
            + (
                "a weight of the layer is NaN or infinite"
                if self.needs == WEIGHT
                else "a weight, or an activation or loss of a row, is NaN or infinite; leave such "
                "rows out (weight 0) and collect again"
            )
        )

    def _number(self, name: str) -> float:
        """A hyperparameter that is a number; what is none is NaN, which no range holds."""
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else math.nan

    def _check(self, valid: bool, name: str, allowed: str) -> None:
        if not valid:
            given = f"{name}={getattr(self, name)!r}"
            raise ValueError(f"{type(self).__name__}({given}): must be {allowed}")


def of(statistics: LayerStatistics | None) -> LayerStatistics:
    """The statistics that `_known` made sure of."""
    if statistics is None:
        raise ValueError("score(statistics=None): this criterion needs statistics")
    return statistics


def _kinds(statistics: Statistics | None) -> str:
    return "None" if statistics is None else f"of {', '.join(sorted(statistics.needs)) or 'none'}"
