"""A trained model from its run directory."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from raysb.config import Config, load
from raysb.errors import ModelError
from raysb.nn.lora import merge_lora
from raysb.nn.pretrained import load_weights, prepare
from raysb.nn.registry import MODELS, build_model, converted
from raysb.nn.settings import Model
from raysb.prune.plan import PLAN, PruningPlan
from raysb.prune.surgery import apply, is_applied
from raysb.report.directory import CONFIG, best_weights, newest_weights
from raysb.task import Inputs, inputs
from raysb.training.checkpoint import frozen_digest, load_trained


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
    run: str | os.PathLike[str], model: Callable[[], nn.Module] | None = None, *, best: bool = False
) -> nn.Module:
    """Load the weights of a run.

    Args:
        run: A run directory of `raysb train`, or of a trainer (`result.path`).
        model: Builds the module. Needed where the run's model is not one of raysb's own: code is
            imported only by the name that the caller gives, never by one that lies in a file.
        best: Those of its best evaluation, which a run leaves with `train.save_best`.

    Returns:
        The module in evaluation mode, on the CPU. Of a run of `raysb train` it takes the columns as
        they are in the data, and normalises them as in training; of a trainer's run it is the
        module itself.

    Raises:
        RunDirectoryError: There are no weights in this directory.
        FileNotFoundError: The run did not end, its model has frozen parts, and the file of
            `model.init` that they come from is gone.
        ModelError: The module does not fit the weights, or `model` is needed.
    """
    folder = Path(run)
    weights = best_weights(folder) if best else newest_weights(folder)
    _check_whole(folder, weights)
    config = load(folder / CONFIG, of_run=True) if (folder / CONFIG).exists() else None
    plan = plan_of(folder, None if config is None else config.model)
    build = partial(_seeded, model or _own(run, config, weights), config, plan)
    module = build()
    merge_lora(module)  # of a builder that adapts: a file holds adapters merged, or apart
    if frozen_digest(weights) is None:
        load_weights(module, weights, key=f"load_model({str(run)!r})")
    else:  # of a run that did not end: the file has the trained part only
        module.load_state_dict(_completed(build(), config, weights).state_dict())
    if config is not None:
        data = config.data
        module = TrainedModel(module, inputs(*data.inputs, mean=data.mean, std=data.std))
    return module.eval()


def load_proxy(path: Path, live: Callable[[], nn.Module]) -> tuple[nn.Module, Inputs | None]:
    """Load a trained model that is to score in place of another one, as `scoring.proxy` names it.

    Args:
        path: A run directory, or a file of weights (safetensors); a `plan.safetensors` beside it
            says how the model is cut down.
        live: Builds the model that it stands in for, of which a file holds a copy's weights, as
            does a run of another model than raysb's own.

    Returns:
        The module in evaluation mode, and how columns become its arguments; `None` where that is as
        of the other model.

    Raises:
        ModelError: The weights do not fit the model.
    """
    if path.is_file():
        module = cut_down(live(), plan_of(path.parent, None))
        merge_lora(module)
        load_weights(module, path, key="scoring.proxy")
        return module.eval(), None
    config = load(path / CONFIG, of_run=True) if (path / CONFIG).exists() else None
    own = config is not None and config.model.name in MODELS
    loaded = load_model(path, None if own else live)
    return (loaded.module, loaded.inputs) if isinstance(loaded, TrainedModel) else (loaded, None)


def _check_whole(folder: Path, weights: Path) -> None:
    try:
        frozen_digest(weights)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{folder}: its weights are no safetensors file, or not all of one ({weights.name}: "
            f"{error}): copy the directory again, or train again"
        ) from error


def _own(
    run: str | os.PathLike[str], config: Config | None, weights: Path
) -> Callable[[], nn.Module]:
    """The builder of one of raysb's own models, as a file of weights needs it."""
    if config is None or config.model.name not in MODELS:
        name = "the model" if config is None else f"model.name={config.model.name!r}"
        raise ModelError(
            f"load_model({str(run)!r}): {name} is not one of raysb's own ({', '.join(MODELS)}); "
            "pass model=... , the function that builds it"
        )
    settings = replace(config, model=bare(config.model))
    return build_from(settings, _input_shape(config, weights))


def _completed(model: nn.Module, config: Config | None, weights: Path) -> nn.Module:
    """The model of a run whose file has the trained part only, adapters merged."""
    if config is not None:
        prepare(model, config.model)
    load_trained(model, weights)
    merge_lora(model)
    return model


def plan_of(folder: Path, settings: Model | None) -> str | None:
    """The file that says how a run's net is cut down: the run's own, or what its settings name."""
    own = folder / PLAN
    if own.is_file():
        return str(own)
    return None if settings is None else settings.plan


def _seeded(build: Callable[[], nn.Module], config: Config | None, plan: str | None) -> nn.Module:
    """Build as the run did: what was drawn and frozen lies in no file."""
    with torch.random.fork_rng(devices=[]):
        if config is not None:
            torch.manual_seed(config.run.seed)
        model = build()
    # a builder given by the caller knows nothing of the run's settings
    model = model if config is None else converted(model, config.model)
    return cut_down(model, plan)


def bare(settings: Model) -> Model:
    """The settings of the model alone: all its layers, drawn and trained."""
    whole = replace(settings, plan=None, init=None, init_exclude=(), freeze=())
    return replace(whole, adapter=None, adapter_args={})


def build_from(config: Config, shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """The builder of a resolved configuration's model, for inputs of one shape.

    Args:
        config: With `model.num_classes` resolved.
        shape: Of one row of the first input: (H, W, C) or (H, W) of a picture, else (D,).
    """
    pictures = len(shape) > 1
    return partial(
        _build_prepared,
        config.model,
        image_shape=shape if pictures else None,
        num_features=None if pictures else math.prod(shape),
    )


def _build_prepared(settings: Model, **shapes: Any) -> nn.Module:
    """The bare model, then what is cut off, what it starts from and what of it is trained."""
    return prepare(cut_down(build_model(bare(settings), **shapes), settings.plan), settings)


def cut_down(model: nn.Module, plan: str | os.PathLike[str] | None) -> nn.Module:
    """A model cut down to the pruning plan in a file, unless it is already; returns the model."""
    found = None if plan is None else PruningPlan.load(plan)
    return model if found is None or is_applied(found, model) else apply(found, model)


def _input_shape(config: Config, weights: Path) -> tuple[int, ...]:
    """Shape of one row of the input: as resolved for pictures, else what the first layer takes."""
    if config.data.image_size is not None:
        return config.data.image_size
    # of `mlp`, the one model for rows of numbers; a frozen layer lies in the file it came from
    partly = frozen_digest(weights) is not None and config.model.init is not None
    tensors = load_file(weights) | (load_file(str(config.model.init)) if partly else {})
    first = tensors.get("layers.0.weight", tensors.get("head.weight"))
    return () if first is None else first.shape[1:]
