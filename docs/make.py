"""Write what the code says of itself: the reference, the commands and their settings, the errors.

    python docs/make.py

A test fails while a page is not what this writes.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import raysb
from raysb.commands import COMMANDS
from raysb.config import describe

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "raysb"
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$")
ENTRY = re.compile(r"^    (\*{0,2}[\w., ]+): (.*)$")
HIDDEN = re.compile(r" at 0x[0-9a-f]+")


class Message(NamedTuple):
    """One `raise` of the package."""

    area: str
    kind: str
    text: str


# --- the reference ------------------------------------------------------------------------------


def reference() -> str:
    """Every public name with its signature and docstring."""
    parts = [
        "# API reference",
        "Every public name of `raysb` and its docstring. `python docs/make.py` writes this page.\n"
        "`import raysb` loads neither torch nor ray; a name does, when it is first used.",
    ]
    for name in sorted(raysb.__all__, key=str.lower):
        parts += _describe(name, getattr(raysb, name))
    return "\n\n".join(parts) + "\n"


def _describe(name: str, thing: Any) -> Iterator[str]:
    if name == "__version__":
        return
    yield f"## `{name}`"
    if isinstance(thing, ModuleType):
        yield _markdown(inspect.getdoc(thing) or "")
        for inner in getattr(thing, "__all__", []):
            yield from _signature_and_text(f"{name}.{inner}", getattr(thing, inner), "###")
        return
    yield from _body(name, thing)
    if inspect.isclass(thing):
        for inner, method in vars(thing).items():
            if not inner.startswith("_") and inspect.isfunction(method):
                yield from _signature_and_text(f"{name}.{inner}", method, "###")


def _signature_and_text(name: str, thing: Any, level: str) -> Iterator[str]:
    if inspect.getdoc(thing) and getattr(thing, "__module__", "").startswith("raysb"):
        yield f"{level} `{name}`"
        yield from _body(name, thing)


def _body(name: str, thing: Any) -> Iterator[str]:
    if not (inspect.isclass(thing) and issubclass(thing, Exception)):
        yield f"```text\n{name}{_signature(thing)}\n```"
    yield _markdown(inspect.getdoc(thing) or "")


def _signature(thing: Any) -> str:
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(...)"
    empty = inspect.Parameter.empty
    short = [p.replace(annotation=empty) for p in signature.parameters.values()]
    text = str(signature.replace(parameters=short, return_annotation=empty))
    return HIDDEN.sub("", text).replace("(self, ", "(").replace("(self)", "()")


def _markdown(text: str) -> str:
    """A Google docstring: its sections become lists."""
    lines, inside = list[str](), False
    for line in text.splitlines():
        if section := SECTION.match(line):
            lines += [f"**{section[1]}**", ""]
            inside = True
        elif inside and (entry := ENTRY.match(line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif inside and line.startswith("    "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line
            lines.append(line)
    return "\n".join(lines)


# --- the commands -------------------------------------------------------------------------------


def commands() -> str:
    """What every command prints with `--help`, and every setting."""
    parts = [
        "# Commands and settings",
        "What `raysb COMMAND --help` prints (`python docs/make.py` writes this page).",
    ]
    for name in COMMANDS:
        text = importlib.import_module(f"raysb.commands.{name}").HELP
        text = text.replace("{settings}", "Every setting: see the end of this page.")
        parts += [f"## `raysb {name}`", f"```text\n{text.rstrip()}\n```"]
    parts += ["## Settings", f"```text\n{describe().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


# --- the errors -----------------------------------------------------------------------------------


def errors() -> str:
    """Every message that the package raises, by the part that raises it."""
    parts = [
        "# Every error message",
        "`…` stands for what was given. Causes and cures that take more than the message are in\n"
        "[troubleshooting](troubleshooting.md). `python docs/make.py` writes this page.",
    ]
    found = sorted(set(messages()))
    for area in sorted({message.area for message in found}):
        parts.append(f"## {area}")
        rows = [f"| {m.kind} | {_cell(m.text)} |" for m in found if m.area == area]
        parts.append("\n".join(["| error | message |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def messages() -> Iterator[Message]:
    """The messages in the source; those that only pass another one on are left out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        area = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = _text(node.exc.args[0])
                if len(re.findall(r"\w{2,}", text)) > 2:
                    yield Message(area, ast.unparse(node.exc.func), " ".join(text.split()))


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_text(value) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case _:
            return "…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


PAGES = {"api.md": reference, "commands.md": commands, "errors.md": errors}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
