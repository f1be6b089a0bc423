"""A trained model from its run directory."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from raysb.config import Config, load
from raysb.errors import ModelError, RunDirectoryError
from raysb.nn.registry import MODELS, build_model, load_weights
from raysb.report.directory import CONFIG, MODEL
from raysb.task import Inputs, inputs


class TrainedModel(nn.Module):
    """A module with the normalisation that it was trained with.

    Args:
        module: The trained module.
        inputs: How columns become its arguments.
    """

    def __init__(self, module: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.module = module
        self.inputs = inputs

    def forward(self, *columns: torch.Tensor) -> object:
        """Outputs for columns as they are in the data, e.g. uint8 images [B, H, W, C]."""
        return self.inputs(self.module, dict(zip(self.inputs.columns, columns, strict=True)))


def load_model(
    run: str | os.PathLike[str], model: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """Load the weights of a run.

    Args:
        run: A run directory of `raysb train`, or of a trainer (`result.path`).
        model: Builds the module. Needed where the run's model is not one of raysb's own: code is
            imported only by the name that the caller gives, never by one that lies in a file.

    Returns:
        The module in evaluation mode, on the CPU. Of a run of `raysb train` it takes the columns as
        they are in the data, and normalises them as in training; of a trainer's run it is the
        module itself.

    Raises:
        RunDirectoryError: There are no weights in this directory.
        ModelError: The module does not fit the weights, or `model` is needed.
    """
    folder = Path(run)
    weights = _find_weights(folder)
    config = load(folder / CONFIG) if (folder / CONFIG).exists() else None
    if model is not None:
        module = model()
    elif config is None or config.model.name not in MODELS:
        name = "the model" if config is None else f"model.name={config.model.name!r}"
        raise ModelError(
            f"load_model({str(run)!r}): {name} is not one of raysb's own ({', '.join(MODELS)}); "
            "pass model=... , the function that builds it"
        )
    else:
        settings = replace(config.model, init=None)  # its weights are about to be replaced
        shape = _input_shape(config, weights)
        module = build_from(replace(config, model=settings), shape)()
    load_weights(module, weights)
    if config is not None:
        data = config.data
        module = TrainedModel(module, inputs(*data.inputs, mean=data.mean, std=data.std))
    return module.eval()


def build_from(config: Config, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """The builder of a resolved configuration's model, for inputs of one shape.

    Args:
        config: With `model.num_classes` resolved.
        shape: Of one row of the first input: (H, W, C) or (H, W) of a picture, else (D,).
    """
    pictures = len(shape) > 1
    return partial(
        build_model,
        config.model,
        image_shape=shape if pictures else None,
        num_features=None if pictures else math.prod(shape),
    )


def _input_shape(config: Config, weights: Path) -> tuple[int, ...]:
    """Shape of one row of the input: as resolved for pictures, else what the first layer takes."""
    if config.data.image_size is not None:
        return config.data.image_size
    tensors = load_file(weights)  # of `mlp`, the one model for rows of numbers
    first = tensors.get("layers.0.weight", tensors.get("head.weight"))
    return () if first is None else first.shape[1:]


def _find_weights(folder: Path) -> Path:
    if (folder / MODEL).exists():
        return folder / MODEL
    checkpoints = sorted(folder.glob(f"checkpoint_*/{MODEL}"), key=lambda p: p.stat().st_mtime)
    if not checkpoints:
        raise RunDirectoryError(
            f"{folder} holds no {MODEL} and no checkpoint: give the directory that the run named "
            "at its end"
        )
    return checkpoints[-1]
