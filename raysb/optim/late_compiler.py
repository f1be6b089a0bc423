"""Torch's compiler, loaded by whoever compiles, and not by the first step of an optimizer.

To make one of torch's optimizers, and its first step, import `torch._dynamo`: only to say that no
graph goes on there. That is a second of CPU time and 70 MB of each process that trains. Here a
stand-in answers what a step says, and makes room for the compiler as soon as anything else is asked
of it, as `torch.compile` does.

The names are private: where torch has renamed them, the compiler is loaded and nothing else.
"""

import importlib.util
import sys
from collections.abc import Callable
from threading import RLock
from types import ModuleType
from typing import Any

import torch
from torch.optim import Optimizer

_NAME = "torch._dynamo"
_LEFT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_loading = RLock()


class _StandIn(ModuleType):
    """In the place of the compiler until something is asked of it."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = importlib.util.find_spec(_NAME)

    def graph_break(self, *_: Any, **__: Any) -> None:
        """Said by a step, before and after it: there is no graph."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if sys.modules.get(_NAME) is self:
                if name.startswith("__") and name != "__path__":
                    raise AttributeError(name)  # asked of every module, e.g. by `inspect`
                del sys.modules[_NAME]
        return getattr(_compiler(), name)


def load_compiler_late() -> None:
    """Let optimizers of this process do without the compiler until somebody compiles."""
    with _loading:
        if _NAME in sys.modules:
            return
        for name in _LEFT_OUT:
            inner = getattr(getattr(Optimizer, name, None), "__wrapped__", None)
            if inner is not None and not hasattr(inner, "__dynamo_disable"):
                inner.__dynamo_disable = _until_loaded(inner)
        sys.modules[_NAME] = vars(torch)["_dynamo"] = _StandIn()


def _until_loaded(method: Any) -> Callable[..., Any]:
    """A method that the compiler is to leave out, as torch looks for it; at first it is itself."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if isinstance(sys.modules.get(_NAME), _StandIn | None):
            return method(*args, **kwargs)
        method.__dynamo_disable = _compiler().disable(method, wrapping=False)
        return method.__dynamo_disable(*args, **kwargs)

    return call


def _compiler() -> Any:
    """Torch's own; waits for another thread that loads it."""
    import torch._dynamo  # noqa: F401 (while it is loaded, torch has the stand-in by that name)

    return sys.modules[_NAME]
