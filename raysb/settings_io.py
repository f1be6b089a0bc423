"""Settings: which ones the dataclasses have, and what somebody wrote for them on the command line.

Knows dataclasses and type hints, but no setting by name. Written by hand: none of the libraries
compared reads a file, takes dotted flags *and* names the nearest right key for both.
"""

import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from raysb.values import NONE, MismatchError, convert_value, toml_value, type_name

COMMAND_LINE = "command line"

_SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=\.)\s+(?=[A-Z0-9`])")
_ARG = re.compile(r"(\w+)(?: \([^)]*\))?:\s*(.*)")


class SettingError(ValueError):
    """A setting that cannot be used; the message names key, origin, value and what is allowed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One key that can be set.

    Args:
        key: Dotted name, e.g. `train.lr`.
        hint: Type hint of the field behind it.
        default: Value when nobody sets it.
        help: One line from the docstring of its dataclass.
    """

    key: str
    hint: Any
    default: object
    help: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """One value as somebody wrote it.

    Args:
        key: Dotted name with `_` for `-`.
        raw: Text of the command line, or a value of the file.
        origin: Name of the file, or `command line`.
        text: Whether `raw` is text that still has to be read as its type.
    """

    key: str
    raw: object
    origin: str
    text: bool

    def __str__(self) -> str:
        try:
            shown = self.raw if self.text else toml_value(self.raw)
        except TypeError:  # the dates of TOML, which no setting takes
            shown = str(self.raw)
        return f"{self.key}={shown} ({self.origin})"


def settings_of(cls: type, section: str = "") -> dict[str, Setting]:
    """The settings of one dataclass by dotted key; fields that are dataclasses are left out."""
    hints, docs = typing.get_type_hints(cls), argument_docs(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if not field.init or dataclasses.is_dataclass(hints[field.name]):
            continue
        key = f"{section}.{field.name}" if section else field.name
        found[key] = Setting(
            key=key,
            hint=hints[field.name],
            default=_default(field),
            help=docs.get(field.name, ""),
        )
    return found


def _default(field: dataclasses.Field[Any]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def argument_docs(cls: type) -> dict[str, str]:
    """First sentence on each argument, from the `Args:` block of a Google docstring.

    What a class does not say of an argument, the class that it extends says.
    """
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        texts |= _own_docs(base)
    return texts


def _own_docs(cls: type) -> dict[str, str]:
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    texts: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :] if "Args:" in lines else []:
        if line and not line.startswith(" "):
            break
        start = _ARG.fullmatch(line.strip()) if re.match(r" {4}\S", line) else None
        if start:
            name, texts[start[1]] = start[1], start[2]
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return {name: _SENTENCE_END.split(text)[0] for name, text in texts.items()}


def read_flags(flags: Sequence[str], is_switch: Callable[[str], bool]) -> Iterator[Given]:
    """Read `--key VALUE`, `--key=VALUE` and `key=VALUE`; a switch alone is true.

    Args:
        flags: Arguments of the command line.
        is_switch: Whether a key may stand without a value.

    Raises:
        SettingError: For an argument of another form, or a key without its value.
    """
    waiting = list(flags)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        key = name.replace("-", "_")
        if not (name and (equals or word.startswith("--"))) or name.startswith("-"):
            raise SettingError(
                f"unexpected argument {word!r}: settings are written --section.key VALUE, "
                "--section.key=VALUE or section.key=VALUE"
            )
        if not equals:
            if waiting and _is_value(waiting[0], switch=is_switch(key)):
                value = waiting.pop(0)
            elif is_switch(key):
                value = "true"
            else:
                raise SettingError(f"--{name} (command line) needs a value: --{name} VALUE")
        yield Given(key=key, raw=value, origin=COMMAND_LINE, text=True)


def _is_value(word: str, *, switch: bool) -> bool:
    if switch:  # `--train.audit epochs=3`: what is no answer belongs to the next setting
        return not word.startswith("-") and "=" not in word
    return not word.startswith("--")


def convert(given: Given, hint: Any) -> Any:
    """Return the value as the type of its field, or raise `SettingError`."""
    try:
        return convert_value(given.raw, hint, text=given.text)
    except MismatchError:
        raise SettingError(f"{given}: expected {type_name(hint)}") from None


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known key that was probably meant: the same name elsewhere, else the closest spelling."""
    known, name = list(known), key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == name]
    by_name = {each.rpartition(".")[2]: each for each in reversed(known)}
    close = difflib.get_close_matches
    near = same[:1] or close(key, known, 1) or [by_name[n] for n in close(name, by_name, 1)]
    return near[0] if near else None


def explain(message: str, section: str, given: Mapping[str, Given]) -> str:
    """Add key and origin to what a dataclass says about its values.

    Args:
        message: What the dataclass said; usually opens with `section.key=value: `.
        section: Name of the section.
        given: What was written for its keys; the others have their defaults.
    """
    places = [(message.find(f"{section}.{name}"), name) for name in given]
    places += [(message.find(f"{name}="), name) for name in given]
    found = [place for place in places if place[0] >= 0]
    if found or len(given) == 1:
        blamed = min(found)[1] if found else next(iter(given))
        rest = re.sub(rf"^{section}\.{blamed}=(?:\([^)]*\)|\S*): ", "", message)
        return f"{given[blamed]}: {rest}"
    return message + "".join(f"\n  given: {each}" for each in given.values())


def describe_setting(setting: Setting) -> str:
    """One setting for `--help`: its flag, its line, its type and its default."""
    default = NONE if setting.default is None else _short(setting.default)
    kind = type_name(setting.hint)
    kind = kind.replace("|", " | ") if len(kind) > 60 else kind  # so that it can be wrapped
    text = f"{setting.help.rstrip('.')} ({kind}; default {default})"
    flag = f"  --{setting.key}"
    wrapped = textwrap.wrap(text, 66, break_long_words=False, break_on_hyphens=False)
    first = f"{flag:<33} " if len(flag) <= 33 else f"{flag}\n{'':34}"
    return first + f"\n{'':34}".join(wrapped)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(map(_short, value))
    return toml_value(value).strip('"')
