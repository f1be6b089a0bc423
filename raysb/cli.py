"""The `raysb` command. Neither torch nor ray is imported before a command needs them.

Exit codes: 0 the command ended well, 1 it failed, 2 the command line or a setting was wrong.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from raysb.commands import COMMANDS
from raysb.commands.options import (
    FAILED,
    INTERRUPTED,
    NOBODY_READS,
    OK,
    USAGE,
    UsageError,
)
from raysb.errors import RaysbError
from raysb.printable import printable

HELP = """\
usage: raysb [--help] [--version] COMMAND ...

Selective-Backprop on Ray: score everything, train on what is worth a backward pass.

commands:
{commands}

`raysb COMMAND --help` says more; `raysb train --help` lists every setting.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        code = NOBODY_READS
    return code


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else ""
    if name in ("-h", "--help", "help"):
        return _say(_help())
    if name == "--version":
        return _say(f"raysb {_version()}\n")
    if name not in COMMANDS:
        wrong = f"unknown command {name!r}" if name else "no command given"
        return _complain(f"{wrong}; commands: {', '.join(COMMANDS)}\n\n{_help().rstrip()}", USAGE)
    command = importlib.import_module(f"raysb.commands.{name}")
    if "-h" in words or "--help" in words:
        return _say(_command_help(command))
    return _run(command, words[1:])


def _run(command: ModuleType, words: list[str]) -> int:
    """Run a command; an error that was foreseen is one message and an exit code."""
    if "" not in sys.path:  # `mymodule:build` is looked up as `python -m` would; Ray's workers too
        sys.path.append(os.getcwd())  # last, so that a file here never stands for a package
    try:
        return int(command.run(words))
    except (UsageError, RaysbError, ValueError, FileNotFoundError, ImportError) as error:
        if "-v" in words or "--verbose" in words:
            traceback.print_exc()
        wrong_setting = isinstance(error, ValueError) and not isinstance(error, RaysbError)
        return _complain(
            str(error), USAGE if wrong_setting or isinstance(error, UsageError) else FAILED
        )
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:8} {what}" for name, what in COMMANDS.items()))


def _command_help(command: ModuleType) -> str:
    text = str(command.HELP)
    if "{settings}" not in text:
        return text
    from raysb.config import describe

    return text.replace("{settings}", describe())


def _version() -> str:
    from raysb import __version__

    return __version__


def _say(text: str) -> int:
    sys.stdout.write(text)
    return OK


def _complain(text: str, code: int) -> int:
    shown = printable(text, keep="\n")  # names from files stand in it
    sys.stderr.write(f"raysb: error: {shown}\n")
    return code
