"""Residual networks for small pictures (He et al. 2016, arXiv:1512.03385).

The widths and depths of the paper's ImageNet nets with the stem that CIFAR asks for: one 3x3
convolution of stride 1 and no max pool.

Dimensions in comments: B rows, C channels, H and W pixels, K classes.
"""

from collections.abc import Sequence

import torch
from torch import nn

from raysb.nn.init import he_init, zero_init
from raysb.nn.norm import make_norm


class BasicBlock(nn.Module):
    """y = relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))).

    The shortcut is the identity, or a 1x1 convolution and a norm where the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=bias)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.norm2 = make_norm(norm, channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=bias), make_norm(norm, channels)
            )

    def end_of_branch(self) -> nn.Module:
        """What the residual branch ends in."""
        return self.conv2 if isinstance(self.norm2, nn.Identity) else self.norm2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        branch = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, stages of basic blocks, mean over the picture, linear head.

    Args:
        in_channels: Channels of the picture.
        num_classes: Outputs.
        norm: `group`, `batch` or `none`.
        blocks: Blocks of each stage; every stage but the first halves height and width.
        width: Channels of the first stage; each further stage has twice as many.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        norm: str = "group",
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1 or width < 1:
            raise ValueError(
                f"model.args: blocks={list(blocks)}, width={width}: at least one stage, one block "
                "in each and one channel are needed"
            )
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=norm == "none"),
            make_norm(norm, width),
            nn.ReLU(),
        )
        channels = [width * 2**stage for stage in range(len(blocks))]
        inputs = [width, *channels[:-1]]
        self.stages = nn.Sequential(
            *(
                _stage(inputs[stage], channels[stage], depth, min(stage + 1, 2), norm)
                for stage, depth in enumerate(blocks)
            )
        )
        self.head = nn.Linear(channels[-1], num_classes)
        he_init(self)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                zero_init(module.end_of_branch())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        logits: torch.Tensor = self.head(self.stages(self.stem(images)).mean((2, 3)))
        return logits


def _stage(in_channels: int, channels: int, depth: int, stride: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride, norm),
        *(BasicBlock(channels, channels, 1, norm) for _ in range(depth - 1)),
    )
