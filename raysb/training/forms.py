"""What read data must look like, said as a value: forms of numbers, arrays, tensors, dicts, lists.

    keys(low=count, done=list_of(count))("cursor", {"low": -5, "done": []})
    ValueError: cursor.low is -5, must be a whole number from 0

A form is called with the name of what it looks at, and raises. Files that come from outside are
compared with forms before anything is made of them.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, TypeAlias

import numpy as np
import torch

Form: TypeAlias = Callable[[str, Any], None]

_MOST = 2**63  # beyond which nothing is counted


def leaf(allowed: str, fits: Callable[[Any], bool]) -> Form:
    """A value of which a question is true.

    Args:
        allowed: What to say of those that fit, after "must be".
        fits: The question; what it raises counts as no.
    """

    def check(at: str, value: Any) -> None:
        try:
            right = fits(value)
        except Exception:  # of the library that was asked
            right = False
        if not right:
            raise ValueError(f"{at} is {shown(value)}, must be {allowed}")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


whole = leaf("a whole number", lambda v: type(v) is int and abs(v) < _MOST)
count = leaf("a whole number from 0", lambda v: type(v) is int and 0 <= v < _MOST)
number = leaf("a number", _is_number)
duration = leaf("a number from 0", lambda v: _is_number(v) and isfinite(v) and v >= 0)
text = leaf("text", lambda v: isinstance(v, str))
truth = leaf("true or false", lambda v: isinstance(v, bool))
mapping = leaf("a dict", lambda v: isinstance(v, Mapping))
numeral = leaf("a whole number from 0", lambda v: v.isdecimal() and int(v) < _MOST)  # a key of JSON
# the same, also below 0
integral = leaf("a whole number", lambda v: str(int(v)) == v and abs(int(v)) < _MOST)


def keys(
    required: Mapping[str, Form], optional: Mapping[str, Form] | None = None, *, only: bool = False
) -> Form:
    """A dict with these keys.

    Args:
        required: A form for each key that must be there.
        optional: A form for each that earlier releases had not.
        only: Whether there may be no others.
    """
    known = {**required, **(optional or {})}

    def check(at: str, value: Any) -> None:
        mapping(at, value)
        if missing := sorted(required.keys() - value.keys()):
            raise ValueError(f"{at} has no {', '.join(missing)}")
        if only and (unknown := sorted(map(str, value.keys() - known.keys()))):
            raise ValueError(f"{at} has {', '.join(unknown)}, of which nothing is known")
        for name, form in known.items():
            if name in value:
                form(f"{at}.{name}", value[name])

    return check


def each(form: Form, key: Form = text) -> Form:
    """A dict whose keys have one form and whose values have another."""

    def check(at: str, value: Any) -> None:
        mapping(at, value)
        for name, part in value.items():
            key(f"a key of {at}", name)
            form(f"{at}.{name}", part)

    return check


def list_of(form: Form, *, least: int = 0) -> Form:
    """A list of at least so many parts of one form."""
    long = leaf(f"a list of at least {least}" if least else "a list", _is_list_from(least))

    def check(at: str, value: Any) -> None:
        long(at, value)
        for i, part in enumerate(value):
            form(f"{at}[{i}]", part)

    return check


def row(*forms: Form) -> Form:
    """A list with a form for each of its parts."""
    fits = leaf(f"a list of {len(forms)}", lambda v: _is_list_from(0)(v) and len(v) == len(forms))

    def check(at: str, value: Any) -> None:
        fits(at, value)
        for i, (form, part) in enumerate(zip(forms, value, strict=True)):
            form(f"{at}[{i}]", part)

    return check


def maybe(form: Form) -> Form:
    """Nothing, or what has the form."""

    def check(at: str, value: Any) -> None:
        if value is not None:
            form(at, value)

    return check


def such_that(form: Form, law: str, holds: Callable[[Any], bool]) -> Form:
    """What has a form and obeys a law between its parts, which is said after "must"."""

    def check(at: str, value: Any) -> None:
        form(at, value)
        if not holds(value):
            raise ValueError(f"{at} must {law}")

    return check


def array(dtype: Any = None) -> Form:
    """A numpy array: flat and of the dtype, or of any shape where none is given."""
    allowed = "an array" if dtype is None else f"a flat array of {np.dtype(dtype)}"

    def fits(value: Any) -> bool:
        right = dtype is None or (value.ndim == 1 and value.dtype == dtype)
        return isinstance(value, np.ndarray) and value.ndim > 0 and right

    return leaf(allowed, fits)


def tensor(dtype: torch.dtype) -> Form:
    """A flat tensor of the dtype."""
    return leaf(f"a flat tensor of {dtype}", lambda v: v.dtype == dtype and v.dim() == 1)


def shown(value: Any) -> str:
    """A value, or what kind of one it is, in a few words."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}..."


def _is_list_from(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and len(value) >= least
