"""Weights for a model that is used as it is: where they lie, and whether they fit."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from raysb.errors import ModelError
from raysb.models import TrainedModel, load_model
from raysb.nn.lora import merge_lora
from raysb.nn.pretrained import load_weights
from raysb.nn.registry import MODELS, build_model
from raysb.nn.settings import Model
from raysb.report.directory import CONFIG, newest_weights
from raysb.training.checkpoint import FROZEN

_SHOWN = 4  # names in a message


def find_weights(given: Path) -> tuple[Path, Path | None]:
    """The safetensors file of a run directory, or the file itself, and the run's configuration.

    Raises:
        FileNotFoundError: There is nothing of this name.
        RunDirectoryError: The directory holds no weights.
    """
    if given.is_file():
        return given, None
    if not given.is_dir():
        raise FileNotFoundError(
            f"{given}: no such file or folder; give a run directory or a safetensors file"
        )
    config = given / CONFIG
    return newest_weights(given), config if config.is_file() else None


def check_names(settings: Model, path: Path, *, alone: bool = True) -> None:
    """Compare the names of a file's weights with those of the model, before any row is read.

    Of raysb's own models names do not depend on shapes, so one without memory tells.

    Args:
        settings: Of the bare model.
        path: The file.
        alone: Whether there is nothing but the file. A run that did not end left the trained part
            only, where parts were frozen; its directory says where the rest comes from.

    Raises:
        ModelError: It is no safetensors file, or weights are missing or left over.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            present = set(file.keys())
            partly = FROZEN in (file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: is no safetensors file ({error}); give `model.safetensors` of a run, or what "
            "safetensors.torch.save_model wrote"
        ) from error
    if partly and not alone:
        return  # `load_model` builds the frozen part as the run did, and compares
    if partly:
        raise ModelError(
            f"{path}: holds the trained part of a model with frozen parts; give the run directory, "
            "which says where the rest comes from"
        )
    state = _any_size(settings).state_dict(keep_vars=True)
    there = {id(tensor) for name, tensor in state.items() if name in present}
    missing = [n for n, t in state.items() if n not in present and id(t) not in there]
    unknown = sorted(present - state.keys())
    if missing or unknown:
        raise ModelError(
            f"{path}: does not fit model.name={settings.name}, model.norm={settings.norm}: "
            f"{_listed('missing', missing)}{_listed('not in the model', unknown)}set the "
            "--model.* settings with which it was trained"
        )


def build_with(
    build: Callable[[], nn.Module],
    weights: str | os.PathLike[str] | Mapping[str, torch.Tensor] | None,
) -> nn.Module:
    """Build a model and give it weights, adapters merged.

    Args:
        build: Builds the module.
        weights: A safetensors file, a run directory or a state dict; `None`: as it is built.

    Raises:
        FileNotFoundError: There is nothing of this name.
        ModelError: Names or shapes differ from the model's.
    """
    if weights is not None and not isinstance(weights, Mapping):
        path = find_weights(Path(weights))[0]
        if path != Path(weights):
            found = load_model(weights, model=build)
            return found.module if isinstance(found, TrainedModel) else found
    model = build()
    merge_lora(model)  # a file holds the whole module, as a run exports it
    if isinstance(weights, Mapping):
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(f"weights: do not fit {type(model).__name__}: {error}") from error
    elif weights is not None:
        load_weights(model, path, key="weights")
    return model


def _any_size(settings: Model) -> nn.Module:
    if settings.name not in MODELS:
        return build_model(settings)
    with torch.device("meta"):
        return build_model(settings, image_shape=(32, 32, 3), num_features=1, num_classes=2)


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}; "
