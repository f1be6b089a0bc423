"""Optimizers by name, by class, or by a function of the model."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeGuard

import torch
from torch import nn
from torch.optim import Optimizer

from raysb.imports import call, check_arguments, describe, resolve, takes
from raysb.optim.centralize import gc_param_groups
from raysb.optim.late_compiler import make_without_compiler, step_without_compiler
from raysb.optim.ranger import Ranger

OptimizerFactory: TypeAlias = Callable[..., Optimizer]
Parameters: TypeAlias = list[nn.Parameter] | list[dict[str, Any]]


class OptimizerSettings(Protocol):
    """The part of `raysb.Training` that is about the optimizer."""

    @property
    def optimizer(self) -> str:
        """Name or import path."""

    @property
    def optimizer_args(self) -> Mapping[str, Any]:
        """Arguments by name."""

    @property
    def lr(self) -> float:
        """Learning rate before the schedule."""


_KEY = "train.optimizer_args"
_NEEDS_CLOSURE = ("LBFGS",)


def _classes() -> dict[str, type[Optimizer]]:
    """The optimizers of torch by the names of their classes."""
    named = {name: value for name, value in vars(torch.optim).items() if is_optimizer_class(value)}
    named.pop("Optimizer", None)
    return {name: value for name, value in named.items() if name not in _NEEDS_CLOSURE}


def is_optimizer_class(value: Any) -> TypeGuard[type[Optimizer]]:
    """Whether a value is a class of optimizers, to be called with parameters."""
    return inspect.isclass(value) and issubclass(value, Optimizer)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "ranger": Ranger,
    **_classes(),
}


def build_optimizer(
    model: nn.Module, training: OptimizerSettings, optimizer: OptimizerFactory | None = None
) -> Optimizer:
    """Build the optimizer of a model's parameters that require a gradient.

    | optimizer | is called with |
    |---|---|
    | `None` | what `train.optimizer` names: a class as below, or `(model, **optimizer_args)` |
    | a class, or a `functools.partial` of one | (parameters, lr=..., **optimizer_args) |
    | any other function | (model), and chooses parameters and learning rates by itself |

    `train.lr` and `train.optimizer_args` fill in what a partial does not say. The name `sgd` means
    momentum .9 with Nesterov and a weight decay of 5e-4 (Zagoruyko & Komodakis 2016, section 3)
    unless `train.optimizer_args` says otherwise; every other name has its class's defaults.
    `Ranger` is told by `gc_param_groups` which weights are of embeddings and transposed
    convolutions.

    Args:
        model: The module to be trained.
        training: Name, arguments and learning rate.
        optimizer: A class, a partial of one or a function, in place of the name.

    Raises:
        ValueError: For an unknown name or argument, a value that the optimizer refuses, or a model
            without trainable parameters.
        TypeError: If the function returns no `torch.optim.Optimizer`.
    """
    make_without_compiler()
    built = _built(model, training, optimizer)
    step_without_compiler(type(built))
    return built


def _built(
    model: nn.Module, training: OptimizerSettings, optimizer: OptimizerFactory | None
) -> Optimizer:
    args = dict(training.optimizer_args)
    if optimizer is None:
        optimizer = resolve(training.optimizer, OPTIMIZERS, "train.optimizer")
        if training.optimizer == "sgd":
            args = {**_sgd_defaults(args), **args}
        if not _makes(optimizer, Optimizer):
            return _checked(call(optimizer, (model,), args, _KEY), optimizer)
    if not _makes(optimizer, Optimizer):
        return _checked(optimizer(model), optimizer)
    parameters: Parameters = trainable(model)
    if _makes(optimizer, Ranger):
        parameters = gc_param_groups(model)
    return _from_class(optimizer, parameters, training.lr, args)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The model's parameters that require a gradient.

    Raises:
        ValueError: If there are none.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"{type(model).__name__} has no parameter that requires a gradient: nothing could be "
            "trained; leave requires_grad=True on some"
        )
    return parameters


def _makes(factory: Any, kind: type[Optimizer]) -> bool:
    """Whether it is such a class of optimizers, however often wrapped in `functools.partial`."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return is_optimizer_class(factory) and issubclass(factory, kind)


def _from_class(
    factory: OptimizerFactory, parameters: Parameters, lr: float, args: dict[str, Any]
) -> Optimizer:
    if "lr" in args:
        raise ValueError(f"{_KEY}.lr={args['lr']!r}: is set by train.lr, which the schedule scales")
    said = factory.keywords if isinstance(factory, functools.partial) else {}
    filled = {name: value for name, value in args.items() if name not in said}
    if "lr" not in said and takes(factory, "lr"):
        filled["lr"] = lr
    check_arguments(factory, (parameters,), filled, _KEY)
    try:
        return factory(parameters, **filled)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"train.lr={lr!r}, {_KEY}={args!r}: {describe(factory)} says: {error}"
        ) from error


def _sgd_defaults(args: dict[str, Any]) -> dict[str, Any]:
    momentum = args.get("momentum", 0.9)
    # torch refuses Nesterov's form without momentum or with dampening
    nesterov = momentum > 0 and not args.get("dampening")
    return {"momentum": momentum, "nesterov": nesterov, "weight_decay": 5e-4}


def _checked(built: Any, factory: Any) -> Optimizer:
    if isinstance(built, Optimizer):
        return built
    raise TypeError(
        f"{describe(factory)}(model) returned {type(built).__name__}, not a torch.optim.Optimizer; "
        "give a class, a functools.partial of one, or a function (model) -> Optimizer"
    )
