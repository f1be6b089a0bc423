"""The net of PyTorch's MNIST example, a chain of layers that can be cut anywhere.

Dimensions in comments: B rows, C channels, S pixels a side, K classes.
"""

from collections import OrderedDict

from torch import nn

from raysb.nn.norm import make_norm


class ClassicNet(nn.Sequential):
    """Two convolutions 3x3 of 32 and 64 channels, max pool 2, 128 hidden units, dropout.

    For MNIST 1-32-64 and 9216-128-10, 1,199,882 parameters; weights start as torch draws them.

    Args:
        in_channels: Channels of the picture, C.
        num_classes: Outputs, K.
        norm: After each convolution: `group`, `batch`, or `none` as in the example.
        side: Height and width of the picture, S, at least 6.
        dropout: Shares of zeros before and after the hidden layer.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        norm: str = "none",
        side: int = 28,
        dropout: tuple[float, float] = (0.25, 0.5),
    ) -> None:
        if side < 6:
            raise ValueError(f"model.args: side={side}: pictures of at least 6 pixels are needed")
        pooled = (side - 4) // 2  # of 3x3 without padding, twice, then 2x2
        layers: list[tuple[str, nn.Module]] = [
            ("conv1", nn.Conv2d(in_channels, 32, 3)),
            ("norm1", make_norm(norm, 32)),
            ("relu1", nn.ReLU()),
            ("conv2", nn.Conv2d(32, 64, 3)),  # [B, 64, S - 4, S - 4]
            ("norm2", make_norm(norm, 64)),
            ("relu2", nn.ReLU()),
            ("pool", nn.MaxPool2d(2)),
            ("dropout1", nn.Dropout(dropout[0])),
            ("flatten", nn.Flatten()),
            ("hidden", nn.Linear(64 * pooled**2, 128)),
            ("relu3", nn.ReLU()),
            ("dropout2", nn.Dropout(dropout[1])),
            ("head", nn.Linear(128, num_classes)),
        ]
        super().__init__(OrderedDict(layers))
