"""`raysb train`: train a model as configured."""

import gc
import sys
from typing import TYPE_CHECKING

from raysb.commands.options import (
    CONFIG,
    INTERRUPTED,
    OK,
    VERBOSE,
    Option,
    read_config,
    take_options,
)

if TYPE_CHECKING:
    from raysb.config import Config

HELP = """\
usage: raysb train [--config FILE] [--section.key VALUE ...] [--ask] [--dry-run] [-v] [--help]

  --config FILE                   TOML with a table per section; flags override it
  --ask                           ask for the main settings on the terminal, then train
  --dry-run                       one batch through every stage, with shapes, bytes and seconds;
                                  checks that a checkpoint restores; leaves nothing behind
  -v, --verbose                   Ray's own output, and tracebacks of errors

Settings are written --section.key VALUE, --section.key=VALUE or section.key=VALUE; `-` and `_` are
the same. Lists: `a,b`, `[1, 2]`, or the flag repeated. Tables: `{momentum = 0.9}`, JSON, or
--train.optimizer_args.momentum 0.9. Where `none` is allowed it means: no value.

{settings}
"""


def run(words: list[str]) -> int:
    """Train; returns the exit code."""
    known = {"config": CONFIG, "verbose": VERBOSE, "ask": Option(), "dry-run": Option()}
    given = take_options(words, known)
    config = read_config(given.get("config"), given.rest)
    if given.has("ask"):
        from raysb.ask import Interview

        asking = Interview(
            given.get("config"),
            given.rest,
            read=input,
            write=sys.stdout.write,
            echo=not sys.stdin.isatty(),
        )
        config = asking.hold()
    if given.has("dry-run"):
        from raysb.dry_run import dry_run

        for line in dry_run(config, verbose=given.has("verbose")):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        return OK
    return _train(config, given.has("verbose"))


def _train(config: "Config", verbose: bool) -> int:
    from raysb.interrupt import Interrupted
    from raysb.run import train

    try:
        train(config, verbose=verbose)
        code = OK
    except Interrupted:  # all is written and said
        code = INTERRUPTED
    gc.freeze()  # else the interpreter visits every object of torch and Ray once more: 1 to 3 s
    return code
