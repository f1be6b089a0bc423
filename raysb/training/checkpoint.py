"""A checkpoint: a folder of safetensors, arrays and JSON; no pickled objects.

file                  content
model.safetensors     the trained part of the module's state: all of it, unless parts are frozen
ema.safetensors       the same of the average of the weights, where there is one
train.pt              optimizer, schedule and random states; loads with `weights_only=True`
stream.json           cursor, counters, sums per epoch
history.npz           what is known per sample, and the last R losses

A frozen part is not saved again and again: whoever loads builds it as the run did, from the same
`model.init` and seed. The header of `model.safetensors` then has a digest of it, and another frozen
part is refused. `export` writes the whole module at the end of a run, averaged where it can be.
"""

import copy
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from safetensors.torch import save as to_bytes
from torch import nn

from raysb.errors import ModelError, RaysbError, RunDirectoryError
from raysb.nn.freeze import frozen_state, trained_state
from raysb.nn.lora import merge_lora

VERSION = 1
MODEL = "model.safetensors"
AVERAGED = "ema.safetensors"
LEARNER = "train.pt"
STREAM = "stream.json"
HISTORY = "history.npz"
FROZEN = "frozen_sha256"  # in the header of a file that holds the trained part only


def save(
    folder: Path,
    *,
    model: nn.Module,
    learner: Mapping[str, Any],
    stream: Mapping[str, Any],
    history: Mapping[str, Any] | None,
) -> None:
    """Write a checkpoint into an empty folder.

    Args:
        folder: Where to; made if missing.
        model: The trained part of its state goes to `model.safetensors`, tied tensors once.
        learner: Nested dicts and lists of tensors and numbers; under `average` a module, whose
            state goes to `ema.safetensors` as the model's does to its own file.
        stream: Nested dicts, lists and arrays.
        history: Nested dicts and arrays, `None` where nothing is scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_trained(model, folder / MODEL)
    if "average" in learner:
        save_trained(learner["average"], folder / AVERAGED)
        learner = {name: part for name, part in learner.items() if name != "average"}
    with _writing(folder / LEARNER) as path, open(path, "wb") as file:
        torch.save({"version": VERSION, **learner}, file)
    arrays: dict[str, npt.NDArray[Any]] = {}
    tree = _lift({"stream": stream, "history": history}, arrays, "")
    np.savez(folder / HISTORY, allow_pickle=False, **arrays)
    (folder / STREAM).write_text(json.dumps({"version": VERSION, **tree}))


def load(folder: Path, *, model: nn.Module) -> dict[str, Any]:
    """Load the model's weights in place; return `learner`, `stream` and `history` as saved.

    Raises:
        ModelError: The model is another one than the run's: names, shapes, dtypes, frozen part.
        RunDirectoryError: A file is damaged; the message names it.
    """
    averaged = (folder / AVERAGED).is_file()
    for name in (MODEL, AVERAGED) if averaged else (MODEL,):
        _check_tensors(model, folder / name)
    learner, rest = load_learner(folder), load_stream(folder)
    load_trained(model, folder / MODEL)
    if averaged:
        learner["average"] = copy.deepcopy(model)
        load_trained(learner["average"], folder / AVERAGED)
    return {"learner": learner, **rest}


def load_learner(folder: Path) -> dict[str, Any]:
    """Optimizer and random states alone.

    Raises:
        RunDirectoryError: The file is damaged; the message names it.
    """
    with _reading(folder / LEARNER) as file:
        learner: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        _check_version(file, learner["version"])
    return learner


def load_stream(folder: Path) -> dict[str, Any]:
    """`stream` and `history` alone, for which no model is needed.

    Raises:
        RunDirectoryError: A file is damaged; the message names it.
    """
    with _reading(folder / STREAM) as file:
        tree = json.loads(file.read_text())
        _check_version(file, tree["version"])
        if missing := {"stream", "history"} - tree.keys():
            raise KeyError(f"no {', '.join(sorted(missing))}")
    with _reading(folder / HISTORY) as file, np.load(file, allow_pickle=False) as arrays:
        try:
            lowered = _lower(tree, arrays)
        except KeyError as error:
            raise RunDirectoryError(
                f"{folder / STREAM}: names an array that {HISTORY} does not hold ({error}); one of "
                "them is damaged. Copy the run directory again, or remove this checkpoint"
            ) from error
        return {"stream": lowered["stream"], "history": lowered["history"]}


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A disk without room raises OSError, also out of torch and safetensors, which hide it."""
    try:
        yield path
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    except RuntimeError as error:  # of torch's end of a file that it could not write
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


@contextmanager
def _reading(file: Path) -> Iterator[Path]:
    """Damaged bytes raise whatever they meet, in libraries of four formats: say which file it is.

    Raises:
        RunDirectoryError: It cannot be read.
    """
    try:
        yield file
    except RaysbError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.UnpicklingError):  # torch's own text tells how to run the code
            said = "it holds other things than tensors, numbers and text, perhaps code"
        raise RunDirectoryError(
            f"{file}: cannot be read ({said}); it is damaged, no part of "
            "a checkpoint, or was not copied as a whole. Copy the run directory again, or remove "
            "this checkpoint to use the one before"
        ) from error


def _check_version(file: Path, version: int) -> None:
    if version != VERSION:
        raise RunDirectoryError(f"{file} has version {version}; this raysb reads {VERSION}")


def save_trained(model: nn.Module, path: Path) -> None:
    """Write the trained part of a model; the whole of it where nothing is frozen."""
    frozen = frozen_state(model)
    if not frozen:
        _save_whole(model, path)
        return
    tensors = {name: tensor.contiguous() for name, tensor in trained_state(model).items()}
    with _usual_mode(path):
        save_file(tensors, path, metadata={"format": "pt", FROZEN: state_digest(frozen)})


def load_trained(model: nn.Module, path: Path) -> None:
    """Bring a model, built and frozen as it was, to the state that `save_trained` wrote.

    Raises:
        ModelError: The model has another trained part, or another frozen one.
    """
    digest = frozen_digest(path)
    if digest is None:
        load_model(model, str(path))
        return
    saved, own = load_file(path), trained_state(model)
    differ = sorted(
        saved.keys() ^ own.keys()
        | {name for name in saved.keys() & own.keys() if saved[name].shape != own[name].shape}
    )
    if differ:
        raise ModelError(
            f"{path}: does not fit {type(model).__name__}: it holds the trained part of a model "
            f"with frozen parts, and {', '.join(differ[:4])} differ; build the model with the "
            "model.* of the run"
        )
    if state_digest(frozen_state(model)) != digest:
        raise ModelError(
            f"{path}: does not fit {type(model).__name__}: its frozen part is not the one that was "
            "trained with; build it from the same model.init file, or where it is drawn under the "
            "same seed"
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def _check_tensors(model: nn.Module, path: Path) -> None:
    """Refuse what torch would cast, or tell of without the file's name; nothing is loaded."""
    with _reading(path), safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        saved = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}
        whole = FROZEN not in (file.metadata() or {})
    state = model.state_dict()
    own = {name: _kind(tensor) for name, tensor in state.items()}
    differ = [
        f"{name} is {kind} there and {own.get(name, 'none')} here"
        for name, kind in saved.items()
        if own.get(name) != kind
    ]
    if whole:  # of tied weights it holds one
        held = {state[name].data_ptr() for name in saved.keys() & state.keys()}
        absent = own.keys() - saved.keys()
        differ += [f"{n} is not there" for n in sorted(absent) if state[n].data_ptr() not in held]
    if differ:
        raise ModelError(
            f"{path}: does not fit {type(model).__name__}: {'; '.join(differ[:4])}. Nothing was "
            "loaded; build the model with the model.* of the run, and convert no files of it"
        )


def _kind(tensor: torch.Tensor) -> str:
    """Dtype and shape as safetensors writes them: F32 [3, 2]."""
    head = to_bytes({"": torch.empty(0, dtype=tensor.dtype)})
    dtype = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])[""]["dtype"]
    return f"{dtype} {list(tensor.shape)}"


def frozen_digest(path: Path) -> str | None:
    """Digest of the frozen part that a file was trained with; `None`: the file holds everything."""
    with safe_open(path, framework="pt") as file:
        found: str | None = (file.metadata() or {}).get(FROZEN)
    return found


def export(build: Callable[[], nn.Module], checkpoint: Path, path: Path) -> None:
    """Write the whole model of a checkpoint, adapters merged, so that nothing else is needed.

    Of a run that averages its weights it is the average. The file is whole or not there.

    Args:
        build: Builds the model as the run did; called only if parts of it are frozen.
        checkpoint: Its folder.
        path: The file to write.

    Raises:
        OSError: It cannot be written.
    """
    averaged = checkpoint / AVERAGED
    weights = averaged if averaged.is_file() else checkpoint / MODEL
    draft = path.with_name(f".{path.name}.draft")
    try:
        if frozen_digest(weights) is None:
            shutil.copyfile(weights, draft)
        else:
            model = build()
            load_trained(model, weights)
            merge_lora(model)
            _save_whole(model, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _save_whole(model: nn.Module, path: Path) -> None:
    with _usual_mode(path):
        save_model(model, str(path))


@contextmanager
def _usual_mode(path: Path) -> Iterator[None]:
    """Let others read a file as any new one: safetensors leaves its files to their owner alone."""
    path.touch()
    mode = path.stat().st_mode
    with _writing(path):
        yield
    path.chmod(mode)


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; about a second per GB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()


def _lift(tree: Any, arrays: dict[str, npt.NDArray[Any]], path: str) -> Any:
    """Replace arrays by references, so that the rest is JSON."""
    if isinstance(tree, np.ndarray):
        arrays[path] = tree
        return {"__array__": path}
    if isinstance(tree, Mapping):
        return {str(key): _lift(value, arrays, f"{path}/{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_lift(value, arrays, f"{path}/{i}") for i, value in enumerate(tree)]
    return tree.item() if isinstance(tree, np.generic) else tree


def _lower(tree: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    if isinstance(tree, dict):
        if set(tree) == {"__array__"}:
            return arrays[tree["__array__"]]
        return {key: _lower(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_lower(value, arrays) for value in tree]
    return tree
