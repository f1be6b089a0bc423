"""First-order estimates of how much the loss changes without a channel.

References:
    P. Molchanov, S. Tyree, T. Karras, T. Aila, J. Kautz: Pruning Convolutional Neural Networks for
    Resource Efficient Inference, 2017. https://arxiv.org/abs/1611.06440
    P. Molchanov, A. Mallya, S. Tyree, I. Frosio, J. Kautz: Importance Estimation for Neural Network
    Pruning, 2019. https://arxiv.org/abs/1906.10771
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.linalg import vector_norm

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics

Per = Literal["batch", "row"]


@dataclass(frozen=True, kw_only=True)
class TaylorActivation(Criterion):
    """s_j = mean_n | 1/P sum over P positions of a_jn dl_n/da_jn |, then s / ||s||_2 in each layer.

    The change of the loss, to first order, when the activation becomes 0 (Molchanov 2017, eq. 8);
    the norm makes layers comparable.
    """

    name: ClassVar[str] = "taylor_act"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Normalised changes, at least 0; all 0 where no channel matters. [out_channels]"""
        change = of(statistics).mean("taylor")
        norm = vector_norm(change)
        return change / norm if norm != 0 else change


@dataclass(frozen=True, kw_only=True)
class Taylor(Criterion):
    """s_j = mean over batches of ( sum_{w in j} w dl/dw )^2, l the mean loss of a batch.

    The change of the loss, to first order, when the filter becomes 0, squared (Molchanov 2019,
    eq. 8, on groups as in section 3.2); the bias is left out.

    Args:
        per: "batch" as above; its mean is E^2 + V/B for a change of mean E and variance V from row
            to row, so it depends on the batch size. "row" squares each row's own change, E^2 + V,
            whatever the batches: weights make it unbiased under selection.

    Raises:
        ValueError: `per` is another word.
    """

    name: ClassVar[str] = "taylor"
    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})

    per: Per = "batch"

    def __post_init__(self) -> None:
        self._check(self.per in get_args(Per), "per", " or ".join(map(repr, get_args(Per))))

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Squared changes. [out_channels]"""
        return of(statistics).mean("filter_batch" if self.per == "batch" else "filter_squared")
