"""How much the mean activation of a channel differs from row to row."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.base import Criterion, of
from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics


@dataclass(frozen=True, kw_only=True)
class ActivationEntropy(Criterion):
    """s_j = - sum_b q_b ln q_b, q the shares of rows in m bins of their mean activation, in nats.

    Each row gives channel j one number, its activation averaged over positions; the bins divide the
    range from the smallest to the largest of them evenly. A channel that says the same of every
    row has entropy 0. Of the newest rows that were kept (`pooled_rows`), by their weights.

    Args:
        bins: m, at least 2; entropies lie in [0, ln m]. Many fewer bins than rows.

    Raises:
        ValueError: `bins` is below 2 or no whole number.

    References:
        J.-H. Luo, J. Wu: An Entropy-based Pruning Method for CNN Compression, 2017.
        https://arxiv.org/abs/1706.05791
    """

    name: ClassVar[str] = "entropy"
    needs: ClassVar[frozenset[str]] = frozenset({"activation"})

    bins: int = 32

    def __post_init__(self) -> None:
        whole = isinstance(self.bins, int) and not isinstance(self.bins, bool)
        self._check(whole and self.bins >= 2, "bins", "a whole number of at least 2")

    def score(self, name: str, layer: Layer, statistics: LayerStatistics | None) -> torch.Tensor:
        """Entropies. [out_channels]"""
        rows = of(statistics).pooled.rows()
        if rows is None:
            raise ValueError(f"entropy: no activation of layer {name!r} was kept")
        return histogram_entropy(*rows, self.bins)


def histogram_entropy(values: torch.Tensor, weights: torch.Tensor, bins: int) -> torch.Tensor:
    """Entropy in nats of the weighted histogram of each column.

    Args:
        values: [n, C], n >= 1; a column with a value that is not finite gives NaN.
        weights: [n], above 0.
        bins: m, of equal width between the column's smallest and largest value.

    Returns:
        float64 [C] in [0, ln m].
    """
    values = values.double()
    low, high = values.amin(0), values.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    place = ((values - low) / width * bins).nan_to_num().long().clamp(0, bins - 1)  # [n, C]
    counts = values.new_zeros(bins, values.shape[1])
    counts.scatter_add_(0, place, weights.double()[:, None].expand_as(values).contiguous())
    shares = counts / weights.sum()
    entropy = -torch.xlogy(shares, shares).sum(0)
    return torch.where((low + high).isfinite(), entropy, torch.nan)
