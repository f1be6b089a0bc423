"""The configuration of a run: the settings of all stages in one place, read from file and flags.

The dataclasses of the stages are the truth; nothing is listed twice. Defaults, then the file, then
the command line; every error names the key, where it was set, the value and what is allowed.
"""

import dataclasses
import os
import tomllib
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from raysb.history.settings import History
from raysb.imports import resolve
from raysb.nn.settings import Model
from raysb.scoring.settings import Scoring
from raysb.selection import SELECTORS, Adjustments, SelectiveBackprop, Selector
from raysb.settings_io import (
    COMMAND_LINE,
    Given,
    Setting,
    SettingError,
    convert,
    describe_setting,
    explain,
    nearest,
    read_flags,
    settings_of,
)
from raysb.source.settings import Data
from raysb.training.settings import Evaluation, Training
from raysb.training.strategies import check_engine
from raysb.values import read_value, toml_value, type_name

SELECTOR = "selector"
KIND = f"{SELECTOR}.kind"
DEFAULT_KIND = "selective_backprop"
ENGINES = ("ray", "local")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Where a run is written, and its seed.

    Args:
        dir: New folder for the run; none: the next free `runs/<model>-<n>`.
        checkpoints: Folder for the checkpoints, also `s3://`, `gs://` and what else `pyarrow.fs`
            knows; none: run.dir. With workers on several machines all must reach it.
        seed: Key of every random number of the run, at least 0.
        loggers: Told of metrics beside metrics.jsonl: `tensorboard`, `mlflow`, `wandb`, or import
            paths of one's own; [] for none.
    """

    dir: str | None = None
    checkpoints: str | None = None
    seed: int = 0
    loggers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        if self.dir is not None and not self.dir.strip():
            raise ValueError(f"run.dir={self.dir!r}: must name a folder, or be none")
        if self.checkpoints is not None and not self.checkpoints.strip():
            raise ValueError(
                f"run.checkpoints={self.checkpoints!r}: must name a folder or a URI, or be none"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"run.seed={self.seed}: must be at least 0 and below 2**63")
        object.__setattr__(self, "loggers", tuple(self.loggers))
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"run.loggers={list(self.loggers)}: each may be named once")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that `raysb train` is told.

    Args:
        data: What is read, and how.
        model: The network.
        selector: What decides which rows are worth a backward pass.
        scoring: The pool of scorers.
        adjust: What is changed of the selector's choice.
        history: What is remembered per sample.
        train: The training loop.
        eval: The evaluation.
        run: Where the run is written, and its seed.
        engine: `ray`, or `local` for the same run in this process, without Ray.
        address: Ray cluster to join; none: a cluster of its own on this machine.
    """

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    selector: Selector = dataclasses.field(default_factory=SelectiveBackprop)
    scoring: Scoring = dataclasses.field(default_factory=Scoring)
    adjust: Adjustments = dataclasses.field(default_factory=Adjustments)
    history: History = dataclasses.field(default_factory=History)
    train: Training = dataclasses.field(default_factory=Training)
    eval: Evaluation = dataclasses.field(default_factory=Evaluation)
    run: Run = dataclasses.field(default_factory=Run)
    engine: Literal["ray", "local"] = "ray"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r}: must be one of {', '.join(ENGINES)}")
        check_engine(self.train, self.engine)


def load(
    file: str | os.PathLike[str] | None = None, flags: Sequence[str] = (), *, of_run: bool = False
) -> Config:
    """Read a configuration: defaults, then the file, then the flags.

    Another `selector.kind` on the command line than in the file starts that kind from its
    defaults: the file's other `selector` keys belong to the kind it named.

    Args:
        file: TOML with a table per section.
        flags: `--section.key VALUE`, `--section.key=VALUE` or `section.key=VALUE`.
        of_run: Whether the file lies in the directory of a run that is only judged. A selector of
            somebody's own is then not imported: the default one, which nobody asks, stands for it.

    Raises:
        SettingError: A `ValueError` for what cannot be used.
        FileNotFoundError: No such file.
    """
    in_file = list(_read_file(file)) if file is not None else []
    foreign = [each for each in in_file if each.key == KIND and str(each.raw) not in SELECTORS]
    if of_run and foreign:
        in_file = [each for each in in_file if not each.key.startswith(f"{SELECTOR}.")]
    file_kind = _chosen_kind(in_file, DEFAULT_KIND)
    values: dict[str, tuple[Any, Given]] = {}
    _assign(values, in_file, file_kind)
    everything = settings()
    on_line = list(read_flags(flags, lambda key: _is_switch(everything.get(key))))
    kind = _chosen_kind(on_line, file_kind)
    if kind != file_kind:
        values = {k: v for k, v in values.items() if not k.startswith(f"{SELECTOR}.")}
    _assign(values, on_line, kind)
    return _build(values, kind)


def to_toml(config: Config) -> str:
    """The whole configuration as TOML: `load` of it gives an equal one."""
    values = flat(config)
    lines, section = [], ""
    for setting in settings(kind_of(config)).values():
        *head, name = setting.key.split(".")
        if head and head[0] != section:
            section = head[0]
            lines += ["", f"[{section}]"]
        value = values[setting.key]
        comment = "# " if value is None and setting.default is None else ""
        lines.append(f"{comment}{name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def flat(config: Config) -> dict[str, Any]:
    """The value of every setting by dotted key, e.g. `{"train.lr": 0.05}`."""
    kind = kind_of(config)
    return {
        key: kind if key == KIND else _value(config, key.split(".")[:-1], key.split(".")[-1])
        for key in settings(kind)
    }


def kind_of(config: Config) -> str:
    """The name behind `selector.kind`, or the import path of a class of the user's own."""
    own = type(config.selector)
    for kind, cls in SELECTORS.items():
        if own is cls:
            return kind
    path = f"{own.__module__}:{own.__qualname__}"
    if "<locals>" in path or own.__module__ == "__main__":
        raise TypeError(
            f"selector={config.selector!r}: {path} cannot be imported, so no file could name it; "
            f"put the class into a module, or take one of {', '.join(SELECTORS)}"
        )
    return path


def selector_class(kind: str) -> type[Selector]:
    """The class that a `selector.kind` stands for.

    Raises:
        SettingError: The import fails, or what is found there is no dataclass of a `Selector`.
    """
    try:
        cls = resolve(kind, SELECTORS, KIND)
    except ValueError as error:
        raise SettingError(str(error)) from error
    fits = isinstance(cls, type) and issubclass(cls, Selector) and dataclasses.is_dataclass(cls)
    if not fits:
        raise SettingError(
            f"{KIND}={kind!r}: {cls!r} is no dataclass that extends raysb.Selector; a run asks it "
            "which rows to train (docs/choosing-a-selector.md has one of 20 lines)"
        )
    return typing.cast(type[Selector], cls)


def _value(config: Config, head: list[str], name: str) -> object:
    return getattr(getattr(config, head[0]) if head else config, name)


def sections(kind: str) -> dict[str, type]:
    """The dataclass behind each section, for one kind of selector."""
    hints = typing.get_type_hints(Config)
    hints[SELECTOR] = selector_class(kind)
    return {
        field.name: hints[field.name]
        for field in dataclasses.fields(Config)
        if dataclasses.is_dataclass(hints[field.name])
    }


def settings(kind: str | None = None) -> dict[str, Setting]:
    """Every setting by dotted key, for one kind of selector or for all of them."""
    found = settings_of(Config)
    found.pop(SELECTOR, None)
    for name, cls in sections(kind or DEFAULT_KIND).items():
        if name == SELECTOR:
            found[KIND] = _kind_setting()
        found |= settings_of(cls, name)
    for cls in SELECTORS.values() if kind is None else ():
        found |= settings_of(cls, SELECTOR)
    return found


def _kind_setting() -> Setting:
    return Setting(
        key=KIND,
        hint=typing.cast(Any, Literal)[tuple(SELECTORS)],
        default=DEFAULT_KIND,
        help="What decides which rows are worth a backward pass; or package.module:Class.",
    )


def _is_switch(setting: Setting | None) -> bool:
    return setting is not None and bool in (setting.hint, *typing.get_args(setting.hint))


def _read_file(file: str | os.PathLike[str]) -> Iterable[Given]:
    origin = os.fspath(file)
    try:
        table = tomllib.loads(Path(file).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no configuration file {origin}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read {origin}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{origin} is not TOML: {error}") from None
    for name, value in table.items():
        name = name.replace("-", "_")
        inside = value.items() if isinstance(value, dict) and value else [("", value)]
        for key, each in inside:
            dotted = f"{name}.{key.replace('-', '_')}" if key else name
            if each != {} or not _is_section(dotted):  # an empty section says nothing
                yield Given(key=dotted, raw=each, origin=origin, text=False)


def _is_section(name: str) -> bool:
    return name in sections(DEFAULT_KIND)


def _chosen_kind(given: Iterable[Given], otherwise: str) -> str:
    chosen = [_read_kind(each) for each in given if each.key == KIND]
    return chosen[-1] if chosen else otherwise


def _read_kind(given: Given) -> str:
    """A name of `SELECTORS`, or an import path, which has a colon."""
    if isinstance(given.raw, str) and ":" in given.raw:
        return given.raw
    return str(convert(given, _kind_setting().hint))


def _assign(values: dict[str, tuple[Any, Given]], given: Iterable[Given], kind: str) -> None:
    known = settings(kind)
    for each in given:
        setting, path = _find(each, known, kind)
        before = values.get(setting.key)
        value: Any
        if setting.key == KIND:
            value = _read_kind(each)
        elif path:
            value = _with_entry(before[0] if before else setting.default, path, each)
        else:
            value = convert(each, setting.hint)
            again = before is not None and before[1].origin == each.origin == COMMAND_LINE
            grows = isinstance(value, tuple) and "list of" in type_name(setting.hint)
            if before and again and grows:
                value = (*(before[0] or ()), *value)  # `--data.inputs a --data.inputs b`
        values[setting.key] = (value, each)


def _find(given: Given, known: dict[str, Setting], kind: str) -> tuple[Setting, list[str]]:
    """The setting of a key, and the path inside it where it is a table."""
    head, path = given.key, list[str]()
    while head not in known and "." in head:
        head, _, last = head.rpartition(".")
        path.insert(0, last)
    setting = known.get(head)
    if setting is None or (path and type_name(setting.hint) != "table"):
        raise SettingError(_unknown(given, known, kind))
    return setting, path


def _with_entry(table: object, path: list[str], given: Given) -> dict[str, Any]:
    """A copy of a table with one entry set, as `--train.optimizer_args.momentum 0.9` asks."""
    name, *rest = path
    table = {**table} if isinstance(table, dict) else {}
    value = read_value(given.raw) if isinstance(given.raw, str) and given.text else given.raw
    table[name] = _with_entry(table.get(name), rest, given) if rest else value
    return table


def _unknown(given: Given, known: dict[str, Setting], kind: str) -> str:
    section = given.key.rpartition(".")[0]
    if _is_section(given.key):
        keys = [key for key in known if key.startswith(f"{given.key}.")]
        return f"{given}: {given.key!r} is a section; set one of its keys: {', '.join(keys)}"
    inside = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    if section == SELECTOR and given.key in settings():
        return f"{given}: {KIND}={kind} has no such key; its keys: {', '.join(inside)}"
    near = nearest(given.key, known)
    hint = f" Did you mean {near!r}?" if near else ""
    allowed = f"sections: {', '.join(sections(kind))}"
    if section and inside:
        allowed = f"keys of {section}: {', '.join(inside)}"
    return f"{given}: unknown key.{hint} ({allowed})"


def _build(values: dict[str, tuple[Any, Given]], kind: str) -> Config:
    parts: dict[str, Any] = {key: value for key, (value, _) in values.items() if "." not in key}
    for section, cls in sections(kind).items():
        mine = {
            key.removeprefix(f"{section}."): value
            for key, value in values.items()
            if key.startswith(f"{section}.") and key != KIND
        }
        try:
            parts[section] = cls(**{name: value for name, (value, _) in mine.items()})
        except (ValueError, TypeError) as error:
            blamed = {name: given for name, (_, given) in mine.items()}
            raise SettingError(explain(str(error), section, blamed)) from error
    return Config(**parts)


def describe() -> str:
    """Every key with its type, default and one line, grouped by section: the text of `--help`."""
    general = {key: each for key, each in settings_of(Config).items() if key != SELECTOR}
    blocks = [("general", general)]
    for section, cls in sections(DEFAULT_KIND).items():
        if section != SELECTOR:
            blocks.append((section, settings_of(cls, section)))
            continue
        blocks.append((section, {KIND: _kind_setting()}))
        blocks += [
            (f"{section}, with {KIND}={kind}", settings_of(each, section))
            for kind, each in SELECTORS.items()
            if settings_of(each, section)
        ]
    return "\n\n".join(
        "\n".join([f"{title}:", *map(describe_setting, each.values())]) for title, each in blocks
    )
