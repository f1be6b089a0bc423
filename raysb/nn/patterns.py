"""Parts of a model by glob patterns of their names."""

import difflib
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

_SHOWN = 8  # names in a message


def chosen(names: Collection[str], patterns: Iterable[str], key: str) -> set[str]:
    """The names that lie in a part that one of the patterns names.

    A pattern is compared with a name and with every module above it: `stem` and `stages.0.*` mean
    all that is below. `*` stands for any characters, dots too; `?` and `[01]` for one.

    Args:
        names: Of parameters and buffers, or of modules.
        patterns: Compared with case.
        key: The setting that they were given for; it opens the message.

    Raises:
        ValueError: A pattern matches nothing: a misspelt one would silently do nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if any(fnmatchcase(p, pattern) for p in parts(name))}
        if not matched:
            raise ValueError(
                f"{key}={pattern!r}: matches no part of the model; {_near(names, pattern)}"
            )
        found |= matched
    return found


def parts(name: str) -> list[str]:
    """A name and the modules above it, the outermost first: a, a.b, a.b.weight."""
    words = name.split(".")
    return [".".join(words[: i + 1]) for i in range(len(words))]


def _near(names: Collection[str], pattern: str) -> str:
    known = list(dict.fromkeys(part for name in names for part in parts(name)))
    guess = difflib.get_close_matches(pattern.rstrip(".*"), known, n=1)
    hint = f"did you mean {guess[0]!r}? " if guess else ""
    outer = list(dict.fromkeys(name.split(".")[0] for name in names))
    more = ", ..." if len(outer) > _SHOWN else ""
    return f"{hint}its parts: {', '.join(outer[:_SHOWN])}{more}, and what is below (stem.*)"
