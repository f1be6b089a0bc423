"""What the words of a command line mean: a command's own options, and the settings that follow.

Settings (`--section.key VALUE`) are read by `raysb.config`; here is only what is not one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysb.config import Config

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
NOBODY_READS = 141  # 128 + SIGPIPE


class UsageError(Exception):
    """The command line is not one that raysb knows."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option that is no setting.

    Args:
        value: What its value is called in the help, `None`: it is a switch.
        short: Its one-letter form, `-v`.
        needs: What its value is, for the message when there is none.
    """

    value: str | None = None
    short: str | None = None
    needs: str = "a value"


CONFIG = Option(value="FILE", needs="the name of a file")
VERBOSE = Option(short="-v")
JSON = Option()


@dataclass(frozen=True)
class Words:
    """A command line, taken apart.

    Args:
        options: The options given, by name; `""` for a switch.
        rest: Everything else, in order: names of files and folders first, then settings.
    """

    options: Mapping[str, str]
    rest: tuple[str, ...]

    def get(self, name: str) -> str | None:
        """The value of an option, `None` where it was not given."""
        return self.options.get(name)

    def has(self, name: str) -> bool:
        """Whether an option was given."""
        return name in self.options

    def positional(self, *names: str) -> tuple[list[str], list[str]]:
        """The leading words, one for each name, and the settings after them.

        Raises:
            UsageError: There are fewer, as in `raysb eval` without a run directory.
        """
        if len(self.rest) < len(names) or any(w.startswith("-") for w in self.rest[: len(names)]):
            raise UsageError(f"{' '.join(names)} must come first, before all settings")
        return list(self.rest[: len(names)]), list(self.rest[len(names) :])


def take_options(words: Sequence[str], known: Mapping[str, Option]) -> Words:
    """Split a command's own options from the rest.

    Args:
        words: The command line after the command.
        known: The options by name, `{"config": CONFIG}` for `--config FILE`.

    Raises:
        UsageError: An option without its value, or given twice with a value.
    """
    shorts = {option.short: name for name, option in known.items() if option.short}
    found: dict[str, str] = {}
    rest, waiting = list[str](), list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        name = shorts.get(flag) or (flag[2:] if flag.startswith("--") else "")
        option = known.get(name)
        if option is None:
            rest.append(word)
        elif option.value is None:
            if equals:
                raise UsageError(f"--{name} takes no value, but was given {value!r}")
            found[name] = ""
        elif not equals and not waiting:
            raise UsageError(f"--{name} needs {option.needs}: --{name} {option.value}")
        elif name in found:
            raise UsageError(f"--{name} was given twice; the first was {found[name]}")
        else:
            found[name] = value if equals else waiting.pop(0)
    return Words(found, tuple(rest))


def read_config(file: str | None, settings: Sequence[str]) -> "Config":
    """The configuration that a command line describes: defaults, then the file, then the settings.

    Raises:
        UsageError: There is no such file.
        ValueError: A setting that cannot be used.
    """
    from raysb.config import load

    try:
        return load(file, settings)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
