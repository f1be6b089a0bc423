"""A checkpoint: a folder of safetensors, arrays and JSON; no pickled objects.

file                  content
model.safetensors     the trained part of the module's state: all of it, unless parts are frozen
train.pt              optimizer, schedule and random states; loads with `weights_only=True`
stream.json           cursor, counters, sums per epoch
history.npz           what is known per sample, and the last R losses

A frozen part is not saved again and again: whoever loads builds it as the run did, from the same
`model.init` and seed. The header of `model.safetensors` then has a digest of it, and another frozen
part is refused. `export` writes the whole module at the end of a run.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from raysb.errors import ModelError
from raysb.nn.freeze import frozen_state, trained_state
from raysb.nn.lora import merge_lora

VERSION = 1
MODEL = "model.safetensors"
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
        learner: Nested dicts and lists of tensors and numbers.
        stream: Nested dicts, lists and arrays.
        history: Nested dicts and arrays, `None` where nothing is scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_trained(model, folder / MODEL)
    torch.save({"version": VERSION, **learner, "rng": rng_state()}, folder / "train.pt")
    arrays: dict[str, npt.NDArray[Any]] = {}
    tree = _lift({"stream": stream, "history": history}, arrays, "")
    np.savez(folder / HISTORY, **arrays)  # type: ignore[arg-type]
    (folder / STREAM).write_text(json.dumps({"version": VERSION, **tree}))


def load(folder: Path, *, model: nn.Module) -> dict[str, Any]:
    """Load the model's weights in place; return `learner`, `stream` and `history`.

    Raises:
        ModelError: The frozen part of the model is not that of the run.
    """
    load_trained(model, folder / MODEL)
    learner = torch.load(folder / "train.pt", map_location="cpu", weights_only=True)
    _check_version(folder / "train.pt", learner["version"])
    return {"learner": learner, **load_stream(folder)}


def load_stream(folder: Path) -> dict[str, Any]:
    """`stream` and `history` alone, for which no model is needed."""
    tree = json.loads((folder / STREAM).read_text())
    _check_version(folder / STREAM, tree["version"])
    with np.load(folder / HISTORY, allow_pickle=False) as arrays:
        lowered = _lower(tree, arrays)
    return {"stream": lowered["stream"], "history": lowered["history"]}


def _check_version(file: Path, version: int) -> None:
    if version != VERSION:
        raise ValueError(f"{file} has version {version}; this raysb reads {VERSION}")


def save_trained(model: nn.Module, path: Path) -> None:
    """Write the trained part of a model; the whole of it where nothing is frozen."""
    frozen = frozen_state(model)
    if not frozen:
        _save_whole(model, path)
        return
    tensors = {name: tensor.contiguous() for name, tensor in trained_state(model).items()}
    with _usual_mode(path):
        save_file(tensors, path, metadata={"format": "pt", FROZEN: _digest(frozen)})


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
    if _digest(frozen_state(model)) != digest:
        raise ModelError(
            f"{path}: does not fit {type(model).__name__}: its frozen part is not the one that was "
            "trained with; build it from the same model.init file, or where it is drawn under the "
            "same seed"
        )
    for name, tensor in own.items():
        tensor.copy_(saved[name])


def frozen_digest(path: Path) -> str | None:
    """Digest of the frozen part that a file was trained with; `None`: the file holds everything."""
    with safe_open(path, framework="pt") as file:
        found: str | None = (file.metadata() or {}).get(FROZEN)
    return found


def export(build: Callable[[], nn.Module], checkpoint: Path, path: Path) -> None:
    """Write the whole model of a checkpoint, adapters merged, so that nothing else is needed.

    Args:
        build: Builds the model as the run did; called only if parts of it are frozen.
        checkpoint: Its folder.
        path: The file to write.
    """
    weights = checkpoint / MODEL
    if frozen_digest(weights) is None:
        shutil.copyfile(weights, path)
        return
    model = build()
    load_trained(model, weights)
    merge_lora(model)
    _save_whole(model, path)


def _save_whole(model: nn.Module, path: Path) -> None:
    with _usual_mode(path):
        save_model(model, str(path))


@contextmanager
def _usual_mode(path: Path) -> Iterator[None]:
    """Let others read a file as any new one: safetensors leaves its files to their owner alone."""
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; about a second per GB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(flat)
    return digest.hexdigest()


def save_atomically(folder: Path, **parts: Any) -> None:
    """Write a checkpoint beside its place, then move it there: it is whole or absent.

    One that is there already, of the same step, gives way.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save(beside / "new", **parts)
        if folder.exists():
            os.replace(folder, beside / "old")
        os.replace(beside / "new", folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def rng_state() -> dict[str, Any]:
    """State of the generators that a model or a user may draw from.

    Of GPUs only the present one, and that only where it is used: asking for the state of the others
    would take some hundred MB on each.
    """
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


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
