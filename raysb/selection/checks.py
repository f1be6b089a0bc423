"""What a hyperparameter may be, asked at construction: before anything runs."""

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any


def is_whole(value: Any, least: int) -> bool:
    """Whether it is an integer, of Python or numpy, and large enough; neither 2.0 nor True is."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and int(value) >= least


def is_number(value: Any, fits: Callable[[float], bool]) -> bool:
    """Whether it is a real number, of Python or numpy, that fits; neither '2' nor True is.

    Args:
        value: Anything.
        fits: Its range, false of NaN as every comparison is.
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    return real and fits(value)
