"""A checkpoint: a folder of safetensors, arrays and JSON; no pickled objects.

file                  content
model.safetensors     the module's whole state
train.pt              optimizer, schedule and random states; loads with `weights_only=True`
stream.json           cursor, counters, sums per epoch
history.npz           what is known per sample, and the last R losses
"""

import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_model, save_model
from torch import nn

VERSION = 1
MODEL = "model.safetensors"


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
        model: Its state goes to `model.safetensors`, tied tensors once.
        learner: Nested dicts and lists of tensors and numbers.
        stream: Nested dicts, lists and arrays.
        history: Nested dicts and arrays, `None` where nothing is scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / MODEL))
    torch.save({"version": VERSION, **learner, "rng": rng_state()}, folder / "train.pt")
    arrays: dict[str, npt.NDArray[Any]] = {}
    tree = _lift({"stream": stream, "history": history}, arrays, "")
    np.savez(folder / "history.npz", **arrays)  # type: ignore[arg-type]
    (folder / "stream.json").write_text(json.dumps({"version": VERSION, **tree}))


def load(folder: Path, *, model: nn.Module) -> dict[str, Any]:
    """Load the model's weights in place; return `learner`, `stream` and `history`."""
    load_model(model, str(folder / MODEL))
    learner = torch.load(folder / "train.pt", map_location="cpu", weights_only=True)
    tree = json.loads((folder / "stream.json").read_text())
    for name, version in (("train.pt", learner["version"]), ("stream.json", tree["version"])):
        if version != VERSION:
            raise ValueError(f"{folder / name} has version {version}; this raysb reads {VERSION}")
    with np.load(folder / "history.npz", allow_pickle=False) as arrays:
        lowered = _lower(tree, arrays)
    return {"learner": learner, "stream": lowered["stream"], "history": lowered["history"]}


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
    """State of the generators that a model or a user may draw from."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` gave."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


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
