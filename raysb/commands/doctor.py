"""`raysb doctor`: what would not work here, and which flag mends it."""

import json
import sys
from pathlib import Path

from raysb.commands.options import CONFIG, FAILED, JSON, OK, Option, read_config, take_options

HELP = """\
usage: raysb doctor [--address ADDRESS | --cluster FILE] [--config FILE] [--section.key VALUE ...]
                    [--json] [--help]

Looks at versions, CPUs, GPUs, shared memory, token authentication and other Ray clusters of this
machine, or of the cluster at the address, and at what the given configuration would need of them:
what would not fit, and which flag mends it. Starts no cluster and writes nothing. The exit code is
1 when something would not work.

  --cluster FILE                  look at a cluster file of `ray up` instead, without starting it:
                                  Ray's schema, counts, open ports, tokens, whether the run fits
  --config FILE                   TOML with a table per section; flags override it
  --json                          one JSON object: works, and the list of findings

{settings}
"""


CLUSTER = Option(value="FILE", needs="the name of a cluster file")


def run(words: list[str]) -> int:
    """Examine; returns the exit code."""
    given = take_options(words, {"config": CONFIG, "json": JSON, "cluster": CLUSTER})
    config = read_config(given.get("config"), given.rest)
    from raysb.doctor import examine, examine_cluster_file

    file = given.get("cluster")
    report = examine(config) if file is None else examine_cluster_file(Path(file), config)
    text = json.dumps(report.as_json()) if given.has("json") else "\n".join(report.lines())
    sys.stdout.write(text + "\n")
    return OK if report.works else FAILED
