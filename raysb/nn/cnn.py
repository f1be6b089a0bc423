"""A small convolutional network: three stages of 32, 64 and 128 channels.

Dimensions in comments: B rows, C channels, H and W pixels, K classes.
"""

from collections.abc import Sequence

import torch
from torch import nn

from raysb.nn.init import he_init
from raysb.nn.norm import make_norm


class ConvNet(nn.Module):
    """Stages of (conv 3x3, max pool 2, norm, ReLU), mean over the picture, linear head.

    The pool comes before the norm: a quarter of the pixels to normalise, and as ReLU and maximum
    commute nothing else changes.

    Args:
        in_channels: Channels of the picture.
        num_classes: Outputs.
        norm: `group`, `batch` or `none`.
        channels: Channels of each stage; every stage halves height and width.
        convs: Convolutions in each stage; all but the first keep channels and size.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        norm: str = "group",
        channels: Sequence[int] = (32, 64, 128),
        convs: int = 1,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or convs < 1:
            raise ValueError(
                f"model.args: channels={list(channels)}, convs={convs}: at least one stage, "
                "one channel and one convolution are needed"
            )
        inputs = (in_channels, *channels[:-1])
        self.stages = nn.Sequential(
            *(_stage(i, o, norm, convs) for i, o in zip(inputs, channels, strict=True))
        )
        self.head = nn.Linear(channels[-1], num_classes)
        he_init(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        logits: torch.Tensor = self.head(self.stages(images).mean((2, 3)))
        return logits


def _stage(in_channels: int, channels: int, norm: str, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convs):
        fan_in = in_channels if index == 0 else channels
        layers.append(nn.Conv2d(fan_in, channels, 3, padding=1, bias=norm == "none"))
        if index == 0:
            layers.append(nn.MaxPool2d(2))
        layers += [make_norm(norm, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
