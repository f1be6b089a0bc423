"""`raysb train`: train a model as configured."""

import gc
import sys
from typing import TYPE_CHECKING

from raysb.collecting import collecting_rarely
from raysb.commands.options import (
    CONFIG,
    INTERRUPTED,
    OK,
    VERBOSE,
    Option,
    UsageError,
    read_config,
    take_options,
)

if TYPE_CHECKING:
    from raysb.config import Config
    from raysb.resume import Resumed

RESUME = Option(value="RUN_DIR", needs="the directory of a run")

HELP = """\
usage: raysb train [--config FILE] [--section.key VALUE ...] [--ask] [--dry-run] [-v] [--help]
       raysb train --resume RUN_DIR [--section.key VALUE ...] [-v]

  --config FILE                   TOML with a table per section; flags override it
  --resume RUN_DIR                go on from a run's newest checkpoint, with its settings; flags
                                  override them, and what differs is said
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
    known = {
        "config": CONFIG,
        "resume": RESUME,
        "verbose": VERBOSE,
        "ask": Option(),
        "dry-run": Option(),
    }
    given = take_options(words, known)
    if (run_dir := given.get("resume")) is not None:
        if others := sorted({"config", "ask", "dry-run"} & given.options.keys()):
            raise UsageError(f"--resume takes the run's own settings: leave out --{others[0]}")
        return _resume(run_dir, given.rest, given.has("verbose"))
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
    return _train(config, None, given.has("verbose"))


def _resume(run_dir: str, settings: tuple[str, ...], verbose: bool) -> int:
    from pathlib import Path

    from raysb.resume import reopen

    resumed = reopen(Path(run_dir), settings)
    return _train(resumed.config, resumed, verbose)


def _train(config: "Config", resumed: "Resumed | None", verbose: bool) -> int:
    from raysb.interrupt import Interrupted

    with collecting_rarely():
        from raysb.run import train

    try:
        train(config, verbose=verbose, resumed=resumed)
        code = OK
    except Interrupted:  # all is written and said
        code = INTERRUPTED
    gc.freeze()  # else the interpreter visits every object of torch and Ray once more: 1 to 3 s
    return code
