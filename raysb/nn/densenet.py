"""Densely connected networks for small pictures (Huang et al. 2017, arXiv:1608.06993).

DenseNet-BC: bottlenecks (B) of 1x1 convolutions, and transitions that compress (C) by a half.

Dimensions in comments: B rows, C channels, H and W pixels, K classes.
"""

import torch
from torch import nn

from raysb.nn.init import he_init
from raysb.nn.norm import make_norm

_BLOCKS = 3
_WIDEN = 4  # channels of a bottleneck, in units of the growth


class Bottleneck(nn.Module):
    """y = [x, conv3x3(relu(norm(conv1x1(relu(norm(x))))))]: `growth` channels are added to x."""

    def __init__(self, in_channels: int, growth: int, norm: str = "group") -> None:
        super().__init__()
        bias, inner = norm == "none", _WIDEN * growth
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=bias)
        self.norm2 = make_norm(norm, inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C + growth, H, W]."""
        narrow = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(narrow)))], 1)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 convolution to half the channels, mean over squares of 2x2 pixels."""

    def __init__(self, in_channels: int, norm: str) -> None:
        super().__init__()
        self.norm = make_norm(norm, in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=norm == "none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, C // 2, H // 2, W // 2]."""
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Stem of 2 k channels, three dense blocks, norm, ReLU, mean over the picture, linear head.

    Args:
        in_channels: Channels of the picture.
        num_classes: Outputs.
        norm: `group`, `batch` or `none`.
        depth: Number of layers, 6 n + 4 for n bottlenecks a block.
        growth: k, channels that each bottleneck adds.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        norm: str = "group",
        depth: int = 100,
        growth: int = 12,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or growth < 1:
            raise ValueError(
                f"model.args: depth={depth}, growth={growth}: the depth must be 6 n + 4 with n of "
                "at least 1 (10, 16, 22, ..., 40, ..., 100), and the growth at least 1"
            )
        channels = 2 * growth
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm == "none")
        layers: list[nn.Module] = []
        for block in range(_BLOCKS):
            for _ in range((depth - 4) // 6):
                layers.append(Bottleneck(channels, growth, norm))
                channels += growth
            if block < _BLOCKS - 1:
                layers.append(Transition(channels, norm))
                channels //= 2
        self.blocks = nn.Sequential(*layers)
        self.norm = make_norm(norm, channels)
        self.head = nn.Linear(channels, num_classes)
        # outputs are few beside inputs: counting them would raise the variance with every layer
        he_init(self, fan="fan_in")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        features = torch.relu(self.norm(self.blocks(self.stem(images))))
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits
