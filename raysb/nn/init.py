"""Initial weights: He et al. 2015 for every layer, zero for the end of every residual branch."""

from typing import Literal, TypeAlias

from torch import nn

Fan: TypeAlias = Literal["fan_in", "fan_out"]


def he_init(model: nn.Module, *, fan: Fan = "fan_out") -> None:
    """Draw weights from N(0, 2 / fan) and set biases to zero; norm layers keep (1, 0).

    Convolutions count the fan of their outputs, which keeps the variance of gradients, or with
    `fan="fan_in"` that of their inputs, which keeps that of activations; linear layers that of
    their inputs. The last layer, `head`, is not followed by a ReLU: its variance is
    1 / fan_in, so that the first losses of a classifier lie near log(num_classes).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(
                module.weight, nonlinearity="linear" if name == "head" else "relu"
            )
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def zero_init(layer: nn.Module) -> None:
    """Make a residual branch that ends in `layer` return zero, so that its block is the identity.

    Goyal et al. 2017 (arXiv:1706.02677), section 5.1. Only what ends the branch may be zero: a
    zero in front of a ReLU would get no gradient, ever.
    """
    if isinstance(layer, (nn.GroupNorm, nn.BatchNorm2d, nn.Conv2d)) and layer.weight is not None:
        nn.init.zeros_(layer.weight)
