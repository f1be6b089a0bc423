"""`raysb plan`: what selecting costs and saves here, before anything is trained."""

import json
import sys

from raysb.commands.options import CONFIG, JSON, OK, VERBOSE, Option, read_config, take_options

HELP = """\
usage: raysb plan [--config FILE] [--section.key VALUE ...] [--history RUN_DIR] [--json]

Does selecting pay? Measures, in under a minute, what it takes to read, score and train a row of
your data with your model on this machine; says which kept fraction breaks even, what an epoch of
each selector would take in one process and with scorers beside the trainers, how many scorers keep
a trainer busy, and when uniform training is the better choice. Trains nothing, writes nothing, and
starts no Ray.

  --config FILE         TOML with a table per section; flags override it
  --history RUN_DIR     a run on these data, finished or under way: its loss history says whether
                        many labels are wrong, where preferring high losses does harm
  --json                one JSON object
  -v, --verbose         tracebacks of errors

Compared with uniform training on all the processors, the scorers' included, as if that scaled
perfectly. Measured with train.num_threads threads, without it with one, as each process of a run on
Ray has. Of one thread CPU time is taken, which does not count waiting for a disk. With
--scoring.proxy its forward passes are measured. Of a pair of numbers, --scoring.num_actors 1,4, the
most are counted; of a pipeline, that its stages wait at either end of a step. A gain per epoch is
not a gain in error: pipelines/benchmarks/frontier.py compares errors at equal cost.

Labels look wrong where the chances that the net gave them fall into two groups with few rows
between: at least 2 % of the rows beyond a valley whose density is a tenth below the lower peak.
Without one, or where over 15 % are mispredicted that do not lie beyond it, a run says nothing about
labels. Ask after three epochs: before, rows that are learned late may look wrong too. A selector is
recommended only where the labels look right and 90 % of the rows are easy; else, and without a
history, uniform training is.

All settings of `raysb train` are taken; `raysb train --help` lists them.
"""


def run(words: list[str]) -> int:
    """Plan; returns the exit code."""
    known = {
        "config": CONFIG,
        "history": Option(value="RUN_DIR", needs="the directory of a run"),
        "json": JSON,
        "verbose": VERBOSE,
    }
    given = take_options(words, known)
    config = read_config(given.get("config"), given.rest)
    from raysb.planning.run import plan
    from raysb.planning.text import lines

    found = plan(config, history=given.get("history"))
    text = json.dumps(found.as_json()) if given.has("json") else "\n".join(lines(found))
    sys.stdout.write(text + "\n")
    return OK
