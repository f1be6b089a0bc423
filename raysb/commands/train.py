"""`raysb train`: train a model as configured."""

import gc

from raysb.commands.options import CONFIG, OK, VERBOSE, read_config, take_options

HELP = """\
usage: raysb train [--config FILE] [--section.key VALUE ...] [-v] [--help]

  --config FILE                   TOML with a table per section; flags override it
  -v, --verbose                   Ray's own output, and tracebacks of errors

Settings are written --section.key VALUE, --section.key=VALUE or section.key=VALUE; `-` and `_` are
the same. Lists: `a,b`, `[1, 2]`, or the flag repeated. Tables: `{momentum = 0.9}`, JSON, or
--train.optimizer_args.momentum 0.9. Where `none` is allowed it means: no value.

{settings}
"""


def run(words: list[str]) -> int:
    """Train; returns the exit code."""
    given = take_options(words, {"config": CONFIG, "verbose": VERBOSE})
    config = read_config(given.get("config"), given.rest)
    from raysb.run import train

    train(config, verbose=given.has("verbose"))
    gc.freeze()  # else the interpreter visits every object of torch and Ray once more: 1 to 3 s
    return OK
