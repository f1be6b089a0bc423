"""Optimal Brain Damage: second-order saliency with a diagonal Hessian."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from raysb.prune.criteria.layers import Layer
from raysb.prune.criteria.statistics import LayerStatistics
from raysb.prune.criteria.unstructured import WeightCriterion


@dataclass(frozen=True, kw_only=True)
class OBD(WeightCriterion):
    """s_w = 1/2 h_ww w^2, with h_ww = mean_n (dl_n/dw)^2; of a channel the sum over its filter.

    The rise of the loss at a minimum when w becomes 0. The Hessian's diagonal is estimated by the
    empirical Fisher information, to which it is equal in expectation where the model's likelihood
    is that of the data.

    References:
        Y. LeCun, J. S. Denker, S. A. Solla: Optimal Brain Damage, NIPS 1989.
    """

    name: ClassVar[str] = "obd"
    needs: ClassVar[frozenset[str]] = frozenset({"per_sample_gradient"})

    def weight_score(self, name: str, layer: Layer, statistics: LayerStatistics) -> torch.Tensor:
        """Saliencies, in the shape of the weight."""
        curvature = statistics.mean("gradient_squared")
        return curvature * layer.weight.detach().double().square() / 2
