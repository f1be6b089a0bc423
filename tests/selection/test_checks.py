"""What cannot be is refused at construction, what can be is not: all fields of all selectors."""

import dataclasses
import re
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

from raysb.seeding import Draws
from raysb.selection import SELECTORS, Adjustments, WeightedReservoir
from raysb.selection.checks import is_number, is_whole

NAN, INF = float("nan"), float("inf")
CLASSES = [*SELECTORS.values(), Adjustments]
FIELDS = [(cls, field) for cls in CLASSES for field in dataclasses.fields(cls)]
UNBOUNDED_BELOW = {"exponent"}
TOO_LARGE = {
    **dict.fromkeys(("fraction", "high", "uniform", "anneal", "explore", "class_floor"), 1.001),
    **{"low": 0.9, "min_probability": 1.001, "prune_ratio": 1.0, "exponent": 1.001},
    **{"target_fraction": 1.0, "refresh_every": 0, "minibatch": 0, "rows_per_epoch": 0},
}


def kinds(field: dataclasses.Field) -> set[type]:
    return {each for each in (field.type, *get_args(field.type)) if isinstance(each, type)}


def wrong_values(field: dataclasses.Field) -> list[object]:
    """Values that no field of this type and name may have."""
    allowed = kinds(field)
    if not allowed & {int, float}:
        return [1, 2.5, NAN, ["yes"], *([] if field.name == "at" else ["yes"])]
    wrong = ["2", "a", True, np.bool_(True), NAN, INF, -INF, [1], 1j, np.ones(2)]
    wrong += [] if field.name in UNBOUNDED_BELOW else [-1, -0.5]
    wrong += [] if float in allowed else [1.5, 2.0, np.float32(3)]
    wrong += [] if type(None) in allowed else [None]
    return [*wrong, TOO_LARGE[field.name]] if field.name in TOO_LARGE else wrong


CASES = [(cls, field.name, value) for cls, field in FIELDS for value in wrong_values(field)]


@pytest.mark.parametrize(
    ("cls", "name", "value"), CASES, ids=lambda case: getattr(case, "__name__", repr(case))
)
def test_a_value_that_cannot_be_is_refused_and_named(cls, name, value) -> None:
    said = rf"^{cls.__name__}\({name}={re.escape(repr(value))}\): must be "
    with pytest.raises(ValueError, match=said):
        cls(**{name: value})


def test_each_field_has_values_to_refuse() -> None:
    refused = {(cls, name) for cls, name, _ in CASES}
    assert refused == {(cls, field.name) for cls, field in FIELDS}
    assert len(FIELDS) > 30


@pytest.mark.parametrize(
    ("cls", "field"), FIELDS, ids=lambda case: getattr(case, "__name__", getattr(case, "name", ""))
)
def test_whole_numbers_and_those_of_numpy_are_taken(cls, field) -> None:
    """beta=2 is as good as 2.0, and what a sweep takes from an array as good as either."""
    allowed = kinds(field)
    if int in allowed:
        values = [512, np.int64(512)]
    elif float in allowed:
        half = 0.5 if field.name not in ("presample", "pressure") else 2
        values = [half, np.float32(half), np.float64(half)]
        values += [1] if field.name not in ("low", "target_fraction", "prune_ratio") else []
    else:
        values = []
    for value in [*values, *([field.default] if field.default is not None else [])]:
        assert getattr(cls(**{field.name: value}), field.name) == value


@pytest.mark.parametrize("capacity", [2.5, 2.0, "2", True, NAN, INF, 0, -1, None])
def test_a_reservoir_of_no_whole_number_of_rows_is_refused(capacity) -> None:
    said = rf"^WeightedReservoir\(capacity={capacity!r}\): must be a whole number of at least 1"
    with pytest.raises(ValueError, match=said):
        WeightedReservoir(capacity, Draws())


def test_what_is_a_whole_number_and_what_a_number() -> None:
    assert [is_whole(v, 2) for v in (1, 2, np.uint8(2), 2.0, "2", True)] == [0, 1, 1, 0, 0, 0]
    taken = [is_number(v, lambda x: x > 0) for v in (1, 0.5, Fraction(1, 2), 0, NAN, "1", True)]
    assert taken == [1, 1, 1, 0, 0, 0, 0]
