"""Values as text."""

import json
import math
import tomllib
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysb.values import MismatchError, convert_value, read_value, toml_value, type_name

CHOICE = Literal["ray", "local"]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e6", int, 1_000_000),
        ("1e-3", float, 0.001),
        (".5", float, 0.5),
        ("3", float, 3.0),
        ("-1", int, -1),
        ("true", bool, True),
        ("No", bool, False),
        ("3", str, "3"),
        ("none", str, "none"),
        ("none", str | None, None),
        ("none", int | None, None),
        ("local", CHOICE, "local"),
        ("auto", int | Literal["auto"] | None, "auto"),
        ("8", int | Literal["auto"] | None, 8),
        ("off", bool | Literal["auto"], False),
        ("0.5, 0.25", tuple[float, ...], (0.5, 0.25)),
        ("32", tuple[int, ...] | None, (32,)),
        ('["a,b", "c"]', tuple[str, ...], ("a,b", "c")),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("", tuple[str, ...], ()),
        ("1,x", tuple[int, str], (1, "x")),
        ("{momentum = 0.9}", dict[str, Any], {"momentum": 0.9}),
        ('{"momentum": null}', dict[str, Any], {"momentum": None}),
        ('{"weight-decay": 0.1}', dict[str, Any], {"weight_decay": 0.1}),
    ],
)
def test_text_of_the_command_line_becomes_the_type_of_its_field(
    text: str, hint: Any, value: object
) -> None:
    read = convert_value(text, hint, text=True)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("1.5", int),
        ("inf", int),
        ("nan", int),
        ("many", int),
        ("", float),
        ("maybe", bool),
        ("rays", CHOICE),
        ("none", int),
        ("a,b", tuple[float, ...]),
        ("[1, 2", tuple[int, ...]),
        ("1,2,3", tuple[int, str]),
        ("3", dict[str, Any]),
        ("[1]", dict[str, Any]),
    ],
)
def test_text_of_another_type_does_not_fit(text: str, hint: Any) -> None:
    with pytest.raises(MismatchError):
        convert_value(text, hint, text=True)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (True, int),
        (1, bool),
        ("3", int),
        ("0.1", float),
        (3, str),
        (1.5, int),
        ("image", tuple[str, ...]),
        ([1, "b"], tuple[str, ...]),
        ([1], dict[str, Any]),
        ({"day": tomllib.loads("d = 1979-05-27")["d"]}, dict[str, Any]),
    ],
)
def test_a_value_of_a_file_must_have_its_type_already(value: object, hint: Any) -> None:
    with pytest.raises(MismatchError):
        convert_value(value, hint, text=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.9", 0.9),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("[64, 64]", [64, 64]),
        ("true", True),
        ("null", None),
        ("False", False),  # as text it would be true
        ("None", None),
        ("none", "none"),  # reduction="none" is what losses are told
        ("'3'", "3"),
        ("relu", "relu"),
        ("1979-05-27", "1979-05-27"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_of_unknown_type_is_toml_else_json_else_text(text: str, value: object) -> None:
    assert read_value(text) == value


@given(st.text())
@settings(deadline=None)
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"value = {toml_value(text)}")["value"] == text


@given(st.dictionaries(st.text(), plain, max_size=4))
@settings(deadline=None)
def test_any_table_survives_toml_even_with_none_in_it(table: dict[str, Any]) -> None:
    written = tomllib.loads(f"value = {toml_value(table)}")["value"]
    assert (json.loads(written) if isinstance(written, str) else written) == table


@given(st.floats())
@settings(deadline=None)
def test_any_float_survives_toml_bit_for_bit(number: float) -> None:
    again = tomllib.loads(f"value = {toml_value(number)}")["value"]
    assert math.isnan(again) if math.isnan(number) else again.hex() == number.hex()


def test_scalars_of_numpy_are_written_as_numbers() -> None:
    assert toml_value((np.float64(0.5), np.int64(3))) == "[0.5, 3]"


def test_an_object_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        toml_value({"fn": object()})


def test_types_are_named_as_they_are_written() -> None:
    assert type_name(int | Literal["auto"] | None) == "int|auto|none"
    assert type_name(tuple[float, ...] | None) == "list of float|none"
    assert type_name(dict[str, Any]) == "table"
    assert type_name(bool) == "true|false"
