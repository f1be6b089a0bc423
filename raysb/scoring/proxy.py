"""Another model that scores in place of the one that is trained, with weights that stay.

Selection via Proxy (Coleman et al., ICLR 2020): a smaller model ranks rows much as a larger one.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from raysb.errors import ModelError
from raysb.imports import resolve
from raysb.nn.registry import MODELS
from raysb.task import Inputs, Task

# Who knows run directories is above this package; found by its name, as any other loader is.
LOADER = "raysb.models:load_proxy"


@dataclass(frozen=True)
class Proxy:
    """A trained model that scores.

    Args:
        model: The module.
        inputs: How columns become its arguments; `None`: as those of the model that is trained.
    """

    model: nn.Module
    inputs: Inputs | None = None

    def task(self, task: Task) -> Task:
        """The task with the forward pass of this model."""
        return task if self.inputs is None else replace(task, forward=self.inputs)

    def beside(self, live: nn.Module) -> nn.Module:
        """The module, on the device of another one."""
        placed = next(live.parameters(), None)
        return self.model if placed is None else self.model.to(placed.device)


def find_proxy(name: str, live: Callable[[], nn.Module]) -> Proxy:
    """Load what `scoring.proxy` names.

    Args:
        name: A run directory, a file of weights of a copy of the live model (safetensors; cut down
            by the `plan.safetensors` beside it, if there is one), or the import path
            `package.module:function` of `() -> nn.Module`, which returns it trained.
        live: Builds the model that is trained.

    Raises:
        ValueError: The name stands for nothing, or for a model without weights.
        ModelError: The weights do not fit, or the function returned no module.
    """
    if os.path.exists(name):
        return Proxy(*resolve(LOADER, {}, "scoring.proxy")(Path(name), live))
    if name in MODELS:
        raise ValueError(
            f"scoring.proxy={name!r}: is a model without trained weights, which would rank rows at "
            f"random. Train it (raysb train --model.name {name}), and name its run directory"
        )
    if ":" not in name:
        raise ValueError(
            f"scoring.proxy={name!r}: there is no such run directory or file of weights; an import "
            "path is 'package.module:function'"
        )
    return Proxy(_built(name))


def _built(name: str) -> nn.Module:
    model: Any = resolve(name, {}, "scoring.proxy")()
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"scoring.proxy={name!r}: it returned {type(model).__name__}, not a torch.nn.Module; "
            "name a function that returns the trained module"
        )
    return model
