"""`raysb config`: what file and flags come to."""

import json
import sys
from typing import TYPE_CHECKING, Any

from raysb.commands.options import CONFIG, JSON, OK, read_config, take_options

if TYPE_CHECKING:
    from raysb.config import Config

HELP = """\
usage: raysb config [--config FILE] [--section.key VALUE ...] [--json] [--help]

Prints the whole configuration as TOML: defaults, then the file, then the flags. What it prints is
a file for `--config`. Reads no data and starts nothing.

  --config FILE                   TOML with a table per section; flags override it
  --json                          one JSON object with an object per section, null for none

{settings}
"""


def run(words: list[str]) -> int:
    """Print; returns the exit code."""
    given = take_options(words, {"config": CONFIG, "json": JSON})
    config = read_config(given.get("config"), given.rest)
    from raysb.config import to_toml

    text = json.dumps(as_json(config), indent=2) + "\n" if given.has("json") else to_toml(config)
    sys.stdout.write(text)
    return OK


def as_json(config: "Config") -> dict[str, Any]:
    """Every setting, those of a section in an object of its own; `None` for no value."""
    from raysb.config import flat

    found: dict[str, Any] = {}
    for key, value in flat(config).items():
        section, _, name = key.rpartition(".")
        inside = found.setdefault(section, {}) if section else found
        inside[name] = value
    return found
