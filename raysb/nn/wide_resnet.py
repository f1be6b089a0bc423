"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv:1605.07146).

Dimensions in comments: B rows, C channels, H and W pixels, K classes.
"""

import torch
from torch import nn

from raysb.nn.init import he_init, zero_init
from raysb.nn.norm import make_norm

_STAGES = 3
_STEM_CHANNELS = 16


class PreActivationBlock(nn.Module):
    """y = shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input. The branch
    ends in a convolution, which hence is what starts at zero: a zero norm in front of the ReLU
    would never get a gradient.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=bias)
        self.norm2 = make_norm(norm, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] to [B, channels, H / stride, W / stride]."""
        active = torch.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        branch: torch.Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return branch + kept


class WideResNet(nn.Module):
    """Stem of 16 channels, three stages of pre-activation blocks, norm, ReLU, mean, linear head.

    Args:
        in_channels: Channels of the picture.
        num_classes: Outputs.
        norm: `group`, `batch` or `none`.
        depth: Number of layers, 6 n + 4 for n blocks a stage.
        widen: Factor on the 16, 32 and 64 channels of the stages.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        norm: str = "group",
        depth: int = 28,
        widen: int = 2,
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise ValueError(
                f"model.args: depth={depth}, widen={widen}: the depth must be 6 n + 4 with n of at "
                "least 1 (10, 16, 22, 28, ...), and the factor at least 1"
            )
        channels = [_STEM_CHANNELS * widen * 2**stage for stage in range(_STAGES)]
        inputs = [_STEM_CHANNELS, *channels[:-1]]
        self.stem = nn.Conv2d(in_channels, _STEM_CHANNELS, 3, padding=1, bias=norm == "none")
        self.stages = nn.Sequential(
            *(
                _stage(inputs[stage], channels[stage], (depth - 4) // 6, min(stage + 1, 2), norm)
                for stage in range(_STAGES)
            )
        )
        self.norm = make_norm(norm, channels[-1])
        self.head = nn.Linear(channels[-1], num_classes)
        he_init(self)
        for module in self.modules():
            if isinstance(module, PreActivationBlock):
                zero_init(module.conv2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] to logits [B, K]."""
        features = torch.relu(self.norm(self.stages(self.stem(images))))
        logits: torch.Tensor = self.head(features.mean((2, 3)))
        return logits


def _stage(in_channels: int, channels: int, depth: int, stride: int, norm: str) -> nn.Sequential:
    return nn.Sequential(
        PreActivationBlock(in_channels, channels, stride, norm),
        *(PreActivationBlock(channels, channels, 1, norm) for _ in range(depth - 1)),
    )
