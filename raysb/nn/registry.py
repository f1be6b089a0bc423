"""Models by name, and how one is built for the data at hand."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from raysb.errors import ModelError
from raysb.imports import call, resolve
from raysb.nn.classic import ClassicNet
from raysb.nn.cnn import ConvNet
from raysb.nn.convert import convert_norm
from raysb.nn.densenet import DenseNet
from raysb.nn.gpt import GPT
from raysb.nn.mlp import MLP
from raysb.nn.resnet import ResNet
from raysb.nn.settings import Model
from raysb.nn.wide_resnet import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "classic": ClassicNet,
    "cnn": ConvNet,
    "densenet100_12": partial(DenseNet, depth=100, growth=12),
    "gpt": GPT,
    "mlp": MLP,
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2)),
    "resnet34": partial(ResNet, blocks=(3, 4, 6, 3)),
    "wide_resnet28_2": partial(WideResNet, depth=28, widen=2),
}
"""Builders `(in_channels or num_features, num_classes, *, norm, **args) -> nn.Module`."""

_SMALLEST_SIDE = 8  # three halvings leave one pixel


def build_model(
    settings: Model,
    *,
    image_shape: tuple[int, ...] | None = None,
    num_features: int | None = None,
    num_classes: int | None = None,
) -> nn.Module:
    """Build the bare model for inputs of one shape; `pretrained.prepare` does the rest.

    Args:
        settings: Name, arguments, norm, its conversion and number of classes. Where the name is an
            import path, the function behind it is called with `model.args` only.
        image_shape: (H, W, C) or (H, W) of a picture; for models of pictures, and for `mlp`.
        num_features: Numbers in a row, for `mlp` on data without pictures.
        num_classes: Outputs of the model where `model.num_classes` does not say.

    Returns:
        The module in training mode; its weights are drawn from torch's global generator.

    Raises:
        ValueError: For an unknown name or argument, or where the shape or the number of classes
            is missing, or `model.convert_norm` cannot be done.
        ModelError: If the import path builds no module.
    """
    builder = resolve(settings.name, MODELS, "model.name")
    given: tuple[Any, ...] = ()
    args = dict(settings.args)
    if settings.name in MODELS:
        given = (
            _num_inputs(settings.name, image_shape, num_features),
            _num_outputs(settings, num_classes),
        )
        _refuse_norm(args)
        args["norm"] = settings.norm
    model = call(builder, given, args, "model.args")
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.name={settings.name!r}: it returned {type(model).__name__}, "
            "not a torch.nn.Module; name a function or class that builds the module"
        )
    return converted(model, settings)


def converted(model: nn.Module, settings: Model) -> nn.Module:
    """A model as `model.convert_norm` wants it; one that is converted already stays as it is.

    Raises:
        ValueError: A batch norm cannot be converted.
    """
    if not settings.convert_norm:
        return model
    try:
        return convert_norm(model)
    except ValueError as error:
        raise ValueError(f"model.convert_norm=true: {error}") from error


def _num_inputs(name: str, image_shape: tuple[int, ...] | None, num_features: int | None) -> int:
    if name in ("gpt", "mlp"):
        if num_features is None and image_shape is not None:
            num_features = math.prod(image_shape)
        if num_features is None:
            raise ValueError(f"model.name={name!r}: the number of features of a row is not known")
        return num_features
    if image_shape is None:
        raise ValueError(
            f"model.name={name!r}: wants pictures, uint8 [H, W, C], and data.inputs names none; "
            "model.name=mlp takes rows of numbers, gpt of tokens"
        )
    if len(image_shape) not in (2, 3) or min(image_shape[:2]) < _SMALLEST_SIDE:
        raise ValueError(
            f"model.name={name!r}: pictures of shape {tuple(image_shape)}; wanted is (H, W, C) "
            f"with H and W of at least {_SMALLEST_SIDE}: set data.image_size, or model.name=mlp"
        )
    return image_shape[2] if len(image_shape) == 3 else 1


def _num_outputs(settings: Model, num_classes: int | None) -> int:
    outputs = settings.num_classes if settings.num_classes is not None else num_classes
    if outputs is None:
        raise ValueError(
            "model.num_classes=none: the data do not say how many outputs the model needs; set "
            "model.num_classes (1 for a regression)"
        )
    return outputs


def _refuse_norm(args: dict[str, Any]) -> None:
    if "norm" in args:
        raise ValueError(f"model.args.norm={args['norm']!r}: is set by model.norm")
