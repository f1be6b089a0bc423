"""The `raysb` command. Neither torch nor ray is imported before a run starts.

Exit codes: 0 the run ended well, 1 it failed, 2 the command or a setting was wrong.
"""

import gc
import os
import sys
import traceback
from collections.abc import Sequence

from raysb.errors import RaysbError

HELP = """\
usage: raysb [--help] [--version] COMMAND ...

Selective-Backprop on Ray: score everything, train on what is worth a backward pass.

commands:
  train    train a model; without arguments on 5,000 real digits (needs the extra `demo`)

`raysb train --help` lists every setting.
"""

TRAIN_HELP = """\
usage: raysb train [--config FILE] [--section.key VALUE ...] [-v] [--help]

  --config FILE                   TOML with a table per section; flags override it
  -v, --verbose                   Ray's own output, and tracebacks of errors

Settings are written --section.key VALUE, --section.key=VALUE or section.key=VALUE; `-` and `_` are
the same. Lists: `a,b`, `[1, 2]`, or the flag repeated. Tables: `{momentum = 0.9}`, JSON, or
--train.optimizer_args.momentum 0.9. Where `none` is allowed it means: no value.

"""

OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class UsageError(Exception):
    """The command line is not one that raysb knows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments after the program's name; None: those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else ""
    if command in ("-h", "--help", "help"):
        return _say(HELP)
    if command == "--version":
        return _say(f"raysb {_version()}\n")
    if command == "train":
        return _train(words[1:])
    wrong = f"unknown command {command!r}" if command else "no command given"
    return _complain(f"{wrong}; commands: train\n\n{HELP.rstrip()}", USAGE)


def _train(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        from raysb.config import describe

        return _say(f"{TRAIN_HELP}{describe()}\n")
    from raysb.config import load

    try:
        file, verbose, flags = _own_options(words)
        config = load(file, flags)
    except (UsageError, ValueError, FileNotFoundError) as error:
        return _complain(str(error), USAGE)
    if "" not in sys.path:  # `mymodule:build` is looked up as `python -m` would; Ray's workers too
        sys.path.append(os.getcwd())  # last, so that a file here never stands for a package
    try:
        from raysb.run import train

        train(config, verbose=verbose)
    except (RaysbError, ValueError, FileNotFoundError, ImportError) as error:
        if verbose:
            traceback.print_exc()
        setting = isinstance(error, ValueError) and not isinstance(error, RaysbError)
        return _complain(str(error), USAGE if setting else FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    gc.freeze()  # else the interpreter visits every object of torch and Ray once more: 1 to 3 s
    return OK


def _own_options(words: list[str]) -> tuple[str | None, bool, list[str]]:
    """Split `--config` and `-v` from the settings."""
    file, verbose, flags, waiting = None, False, list[str](), list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-v", "--verbose"):
            verbose = True
        elif name == "--config":
            if not equals and not waiting:
                raise UsageError("--config needs the name of a file: --config FILE")
            if file is not None:
                raise UsageError(f"--config was given twice; the first was {file}")
            file = value if equals else waiting.pop(0)
        else:
            flags.append(word)
    return file, verbose, flags


def _version() -> str:
    from raysb import __version__

    return __version__


def _say(text: str) -> int:
    sys.stdout.write(text)
    return OK


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"raysb: error: {text}\n")
    return code
