"""A model as it is trained: with weights from a file, adapters, frozen parts."""

from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from raysb.errors import ModelError
from raysb.imports import call
from raysb.nn.convert import STATISTICS
from raysb.nn.freeze import freeze
from raysb.nn.lora import add_lora
from raysb.nn.patterns import chosen
from raysb.nn.settings import Model

ADAPTERS = {"lora": add_lora}
INIT, EXCLUDE = "model.init", "model.init_exclude"
_SHOWN = 6  # tensors in a message


def prepare(model: nn.Module, settings: Model) -> nn.Module:
    """Load `model.init` into a fresh model, then adapt or freeze it; returns the model.

    With `model.convert_norm` the file may be that of the model before its conversion: running
    statistics of what is a group norm now are passed over.

    Raises:
        FileNotFoundError: If `model.init` does not exist.
        ModelError: If it does not fit the model.
        ValueError: If a pattern matches nothing, nothing would be trained, or a batch norm of the
            file became a group norm that is frozen.
    """
    gone: set[str] = set()
    if settings.init is not None:
        unknown = _statistics(model) if settings.convert_norm else ()
        gone = load_weights(
            model, settings.init, exclude=settings.init_exclude, passed_over=unknown
        )
    if settings.adapter is not None:
        call(ADAPTERS[settings.adapter], (model,), settings.adapter_args, "model.adapter_args")
    if settings.freeze:
        freeze(model, settings.freeze)
    _refuse_frozen(model, gone)
    return model


def _statistics(model: nn.Module) -> set[str]:
    """What the group norms of a model would have been called to keep, had they been batch norms."""
    return {
        f"{name}.{kept}" if name else kept
        for name, module in model.named_modules(remove_duplicate=False)
        for kept in STATISTICS
        if isinstance(module, nn.GroupNorm)
    }


def _refuse_frozen(model: nn.Module, gone: Iterable[str]) -> None:
    """What was trained with a batch norm can follow its conversion only if it is trained."""
    for name in sorted({kept.rpartition(".")[0] for kept in gone}):
        parameters = list(model.get_submodule(name).parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            raise ValueError(
                f"model.convert_norm=true: {name!r} is a batch norm in {INIT}, and frozen as a "
                "group norm it would stay another function than the one that its neighbours were "
                "trained with. Frozen, a batch norm's statistics do not move: leave "
                "model.convert_norm out, or train this part too"
            )


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    exclude: Iterable[str] = (),
    passed_over: Collection[str] = (),
    key: str = INIT,
) -> set[str]:
    """Copy weights from a safetensors file into a model that has exactly these.

    Args:
        model: Changed in place, and only if everything fits.
        path: The file; of tied tensors it holds one.
        exclude: Globs of names, as in `raysb.nn.freeze`, that are not loaded: these tensors of the
            model stay as they are, those of the file are passed over.
        passed_over: Names that the file may have and the model does not.
        key: The setting that the path was given for, for messages.

    Returns:
        The names that were passed over.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelError: If it is no safetensors file, or names and shapes differ from the model's.
        ValueError: If a pattern matches nothing, or everything.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{key}={str(path)!r}: no such file")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{key}={str(path)!r}: is no safetensors file: {error}") from error
    gone = tensors.keys() & set(passed_over)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in gone}
    own = model.state_dict()
    left_out = chosen({**own, **tensors}.keys(), exclude, EXCLUDE)
    wanted = {name: tensor for name, tensor in own.items() if name not in left_out}
    given = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    if not wanted:
        raise ValueError(f"{EXCLUDE}={list(exclude)!r}: nothing of {path} would be loaded")
    if wrong := _differences(wanted, given, own):
        raise ModelError(_does_not_fit(model, key, path, wrong))
    model.load_state_dict(given, strict=False)
    return gone


def _differences(
    wanted: dict[str, torch.Tensor], given: dict[str, torch.Tensor], own: dict[str, torch.Tensor]
) -> dict[str, str]:
    """What does not fit, by name."""
    there = {_place(own[name]) for name in given if name in own}
    wrong = {}
    for name, tensor in wanted.items():
        if name not in given and tensor.numel() and _place(tensor) not in there:
            wrong[name] = f"{list(tensor.shape)} in the model, not in the file"
        elif name in given and given[name].shape != tensor.shape:
            wrong[name] = (
                f"{list(tensor.shape)} in the model, {list(given[name].shape)} in the file"
            )
    for name in given.keys() - wanted.keys():
        wrong[name] = f"{list(given[name].shape)} in the file, not in the model"
    return wrong


def _place(tensor: torch.Tensor) -> tuple[int, torch.Size]:
    """Equal for tied tensors."""
    return tensor.data_ptr(), tensor.shape


def _does_not_fit(model: nn.Module, key: str, path: str | Path, wrong: dict[str, str]) -> str:
    lines = [f"    {name}: {text}" for name, text in sorted(wrong.items())]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"    and {len(lines) - _SHOWN} more"]
    advice = (
        "  give the file of a model built with the same model.name, model.args, model.norm and "
        "number of classes"
    )
    modules = sorted({name.rpartition(".")[0] or name for name in wrong})
    if key == INIT and len(modules) <= _SHOWN:
        advice += f"\n  or leave out what does not fit: {EXCLUDE}={modules}"
    return "\n".join([f"{key}={str(path)!r}: does not fit {type(model).__name__}:", *lines, advice])
