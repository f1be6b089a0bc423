"""Torch's compiler, loaded by whoever compiles, and not by an optimizer.

To make one of torch's optimizers, and its first step, import `torch._dynamo`, only to say that no
graph goes on there. That is a second of CPU time and 70 MB of each process that trains. As long as
nobody has loaded the compiler there is nobody to be told; from then on all is as in torch.

The names are private: where torch has renamed them, the compiler is loaded and nothing else.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

_COMPILER = "torch._dynamo"
_LEFT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def make_without_compiler() -> None:
    """Let the methods of every optimizer, its making among them, not load the compiler."""
    for name in _LEFT_OUT:
        inner = getattr(getattr(Optimizer, name, None), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            inner.__dynamo_disable = _left_out_once_loaded(inner)


def step_without_compiler(kind: type[Optimizer]) -> None:
    """Let the steps of such optimizers not load the compiler.

    Of one of torch's own `step` is what calls the hooks, around what guards the graph, around what
    updates the weights. A class of the user's whose `step` calls that one loads it as ever.
    """
    guarded: Any = getattr(kind.step, "__wrapped__", None)
    hooked: Any = getattr(Optimizer, "profile_hook_step", None)
    name = getattr(getattr(guarded, "__code__", None), "co_name", None)
    if name == "_use_grad" and hooked is not None:
        step: Any = hooked(_guarded_once_loaded(guarded))
        step.hooked = True  # as torch says that a class need not be wrapped again
        kind.step = step  # type: ignore[method-assign]


def _left_out_once_loaded(method: Any) -> Callable[..., Any]:
    """A method that the compiler is to leave out, as torch looks for it; at first it is itself."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if _COMPILER not in sys.modules:
            return method(*args, **kwargs)
        import torch._dynamo  # waits for another thread that loads it

        disable: Any = torch._dynamo.disable
        method.__dynamo_disable = disable(method, wrapping=False)
        return method.__dynamo_disable(*args, **kwargs)

    return call


def _guarded_once_loaded(guarded: Any) -> Callable[..., Any]:
    """A step between two ends of a graph; while there are no graphs, what is between them."""
    plain = guarded.__wrapped__

    @functools.wraps(plain)
    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _COMPILER in sys.modules:
            return guarded(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, *args, **kwargs)

    return step
