"""A multi-layer perceptron, for tables and for pictures seen as rows of numbers.

Dimensions in comments: B rows, D features, K classes.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from raysb.nn.init import he_init
from raysb.nn.norm import make_norm


class MLP(nn.Module):
    """Layers of (linear, norm, ReLU) and a linear head; any input is flattened first.

    Args:
        num_features: Numbers in a row, all dimensions but the first taken together.
        num_classes: Outputs; 1 for a regression.
        norm: `group`, `batch` or `none`, over the features of each hidden layer.
        hidden: Width of each hidden layer; none at all is a linear model.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        norm: str = "group",
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ValueError(f"model.args.hidden={list(hidden)}: every width must be at least 1")
        widths = (num_features, *hidden)
        layers: list[nn.Module] = []
        for fan_in, width in pairwise(widths):
            layers += [nn.Linear(fan_in, width), make_norm(norm, width, dims=0), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)
        he_init(self)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [B, ...] of D numbers to outputs [B, K]."""
        outputs: torch.Tensor = self.head(self.layers(rows.flatten(1)))
        return outputs
