"""Objects that a configuration names: by a word from a table, or by where Python finds them."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def resolve(spec: str, known: Mapping[str, Any], what: str) -> Any:
    """Return the object that a name stands for.

    Args:
        spec: A name of the table, or an import path: `package.module:attribute`, also
            `package.module.attribute`.
        known: The table of names.
        what: The key that the name was given for, e.g. `model.name`; it opens every message.

    Raises:
        TypeError: If `spec` is no string.
        ValueError: If the name is unknown (the nearest right one is named), or the import fails
            (what was tried is named).
    """
    if not isinstance(spec, str):
        raise TypeError(f"{what}={spec!r}: must be a name or an import path, as a string")
    if spec in known:
        return known[spec]
    module, _, attribute = spec.partition(":") if ":" in spec else spec.rpartition(".")
    if not module or not attribute:
        raise ValueError(f"{what}={spec!r}: {unknown(spec, known)}, or 'package.module:attribute'")
    return _attribute(_module(module, f"{what}={spec!r}"), attribute, f"{what}={spec!r}")


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, which right one is nearest, and which ones there are."""
    names = sorted(known)
    lower = {each.lower(): each for each in names}
    nearest = difflib.get_close_matches(name.lower(), lower, n=1)
    guess = f"; did you mean '{lower[nearest[0]]}'?" if nearest else ";"
    return f"unknown{guess} known: {', '.join(names) if names else 'none'}"


def call(
    function: Callable[..., Any], given: tuple[Any, ...], args: Mapping[str, Any], key: str
) -> Any:
    """Call a function with arguments from a configuration.

    Args:
        function: What is called.
        given: Positional arguments that do not come from the configuration.
        args: Keyword arguments from the configuration.
        key: The key that `args` was given for, e.g. `train.optimizer_args`; it opens every message.

    Raises:
        ValueError: If an argument is unknown or missing (the allowed ones are named), or the
            function refuses its value.
    """
    check_arguments(function, given, args, key)
    try:
        return function(*given, **args)
    except (TypeError, ValueError) as error:
        message = str(error)
        if message.startswith(key):
            raise
        raise ValueError(f"{key}={dict(args)!r}: {describe(function)} says: {message}") from error


def check_arguments(
    function: Callable[..., Any], given: tuple[Any, ...], args: Mapping[str, Any], key: str
) -> None:
    """Raise `ValueError` if the function cannot be called with these arguments."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C: only the call can tell
    try:
        signature.bind(*given, **args)
    except TypeError as error:
        allowed = _allowed(signature, len(given))
        wrong = [name for name in args if name not in allowed]
        if wrong:
            raise ValueError(
                f"{key}.{wrong[0]}={args[wrong[0]]!r}: an argument of {describe(function)} "
                f"{unknown(wrong[0], allowed)}"
            ) from None
        raise ValueError(
            f"{key}={dict(args)!r}: {describe(function)} cannot be called with it: {error}; "
            f"its arguments: {', '.join(allowed) or 'none'}"
        ) from None


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has a keyword argument of that name, or takes any."""
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def describe(function: Any) -> str:
    """Name of a function or class, for messages."""
    if isinstance(function, functools.partial):
        return describe(function.func)
    return getattr(function, "__name__", None) or repr(function)


def _allowed(signature: inspect.Signature, num_given: int) -> list[str]:
    """Names that may be given as keywords once the first positional ones are taken."""
    free = list(signature.parameters.values())
    positional = [p for p in free if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in positional[:num_given]}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in free if p.kind in named and p.name not in taken]


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise ValueError(
                f"{what}: module {name!r} was found, but needs another: {error}"
            ) from error
        raise ValueError(
            f"{what}: tried to import module {name!r}: {error}. Install it, or put its folder on "
            "PYTHONPATH; every process of the run imports it"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{what}: importing module {name!r} failed: {type(error).__name__}: {error}"
        ) from error


def _attribute(module: Any, path: str, what: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            public = [each for each in vars(found) if not each.startswith("_")]
            raise ValueError(
                f"{what}: module {module.__name__!r} was imported, but {describe(found)} has no "
                f"{name!r}: {unknown(name, public)}"
            )
        found = getattr(found, name)
    return found
