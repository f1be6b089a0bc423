"""Values as text: from the command line or TOML to the type of a field, and back to TOML."""

import json
import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

NONE = "none"

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class MismatchError(Exception):
    """A value is not of the type of its field; the caller knows the key."""


def convert_value(raw: Any, hint: Any, *, text: bool) -> Any:
    """Return a value as the type of a hint.

    Args:
        raw: A value of a TOML file, or text of the command line.
        hint: The type hint of a field.
        text: Whether `raw` is text of the command line.

    Raises:
        MismatchError: It is not of that type.
    """
    family = get_origin(hint) or hint
    if family in (Union, types.UnionType):
        return _convert_union(raw, get_args(hint), text)
    if family is Literal:
        return _convert_literal(raw, get_args(hint), text)
    if family is tuple:
        return _convert_tuple(raw, get_args(hint), text)
    if family is dict:
        return _convert_table(raw)
    if family is types.NoneType:
        return _require(raw == NONE, None)
    return _convert_scalar(raw, family, text)


def _require(fits: bool, value: Any) -> Any:
    if not fits:
        raise MismatchError
    return value


def _convert_union(raw: Any, members: Iterable[Any], text: bool) -> Any:
    # any text fits `str`, so `str` is asked last
    for member in sorted(members, key=lambda member: member is str):
        try:
            return convert_value(raw, member, text=text)
        except MismatchError:
            continue
    raise MismatchError


def _convert_literal(raw: Any, choices: Iterable[Any], text: bool) -> Any:
    for choice in choices:
        if raw == (str(choice) if text else choice):
            return choice
    raise MismatchError


def _convert_tuple(raw: Any, hints: tuple[Any, ...], text: bool) -> tuple[Any, ...]:
    if text and raw.strip().startswith("["):
        raw, text = read_value(raw), False
    elif text:
        raw = [part.strip() for part in raw.split(",")] if raw.strip() else []
    _require(isinstance(raw, list), raw)
    of_each = hints[:1] * len(raw) if hints[-1] is Ellipsis else hints
    _require(len(of_each) == len(raw), raw)
    return tuple(
        convert_value(part, hint, text=text) for part, hint in zip(raw, of_each, strict=True)
    )


def _convert_table(raw: Any) -> dict[str, Any]:
    # a file may hold the table as JSON in a string too: TOML alone has no null
    table = read_value(raw) if isinstance(raw, str) else raw
    _require(isinstance(table, dict) and _is_plain(table), table)
    return {name.replace("-", "_"): value for name, value in table.items()}


def _convert_scalar(raw: Any, kind: type, text: bool) -> Any:
    if kind is str:
        return _require(isinstance(raw, str), raw)
    if kind is bool:
        if text:
            return _require(raw.lower() in _TRUE + _FALSE, raw.lower() in _TRUE)
        return _require(isinstance(raw, bool), raw)
    if text:
        raw = _number(raw)
    _require(isinstance(raw, int | float) and not isinstance(raw, bool), raw)
    if kind is int:  # 1e6 reads better than seven digits
        return int(_require(isinstance(raw, int) or raw.is_integer(), raw))
    return float(raw)


def _number(text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise MismatchError


_PYTHON = {"True": True, "False": False, "None": None}


def read_value(text: str) -> Any:
    """A value of unknown type: TOML (`0.9`, `[64, 64]`, `{a = 1}`), JSON (`null`), else text.

    Python's `False` is no text: as one it would be true.
    """
    if text in _PYTHON:
        return _PYTHON[text]
    for read in (_read_toml, json.loads, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if _is_plain(value):  # not the dates of TOML
            return value
    return text


def _read_toml(text: str) -> Any:
    table = tomllib.loads(f"value = {text}")
    if len(table) > 1:
        raise ValueError
    return table["value"]


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def type_name(hint: Any) -> str:
    """What may be written, in words: `int|none`, `ray|local`, `list of float`."""
    family, args = get_origin(hint) or hint, get_args(hint)
    if family in (Union, types.UnionType):
        return "|".join(type_name(arg) for arg in args)
    if family is Literal:
        return "|".join(map(str, args))
    if family is tuple and args[-1] is not Ellipsis:
        return ",".join(map(type_name, args))
    if family is tuple:
        return f"list of {type_name(args[0])}"
    known = {dict: "table", bool: "true|false", types.NoneType: NONE}
    return known.get(family) or str(getattr(family, "__name__", family))


def toml_value(value: Any) -> str:
    """One value in TOML; a table that holds None becomes JSON in a string.

    Raises:
        TypeError: For what is neither None, bool, number, text, list nor table.
    """
    value = value.item() if hasattr(value, "item") else value  # scalars of numpy
    if isinstance(value, Mapping):
        if _holds_none(value):
            return toml_string(json.dumps(value))
        return "{" + ", ".join(f"{_toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) or value is None:
        return toml_string(NONE if value is None else value)
    raise TypeError(f"{value!r} cannot be written into a configuration file")


def _holds_none(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_none, value.values()))
    return any(map(_holds_none, value)) if isinstance(value, list | tuple) else value is None


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml_string(name)


def toml_string(text: str) -> str:
    """A basic string of TOML: quotes, backslashes and control characters escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", escaped) + '"'
