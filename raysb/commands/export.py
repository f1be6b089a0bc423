"""`raysb export`: a run's model as one file that torch alone loads."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from raysb.commands.effect import OF_A_RUN, take_run
from raysb.commands.options import JSON, OK, Option

if TYPE_CHECKING:
    from raysb.export_run import Exported

HELP = """\
usage: raysb export RUN_DIR [--out FILE] [--overwrite] [--json] [--section.key VALUE ...]

Writes the model of a run with torch.export: one file, FILE.pt2, that needs torch and not raysb.
The program takes the columns as they are in the data, any number of rows, and normalises them as in
training. It is loaded again and compared with the model on test rows before the file gets its name.

  RUN_DIR                         directory of `raysb train` or `raysb prune`
  --out FILE                      file to write (default: model.pt2 in RUN_DIR)
  --overwrite                     replace the file if it exists
  --json                          one JSON object

In Python: torch.export.load("model.pt2").module()(images)

Settings that have an effect, with the defaults of the run:

  --data.test, --data.train, --data.test_fraction    where the rows lie by now
  --data.inputs, --data.target, --data.id, --data.image_size, --data.mean, --data.std
  --model.name, --model.args, --model.norm, --model.num_classes, --train.loss, --train.loss_args

A model or a loss that is code of yours is imported only when it is named here:
--model.name package.module:function
"""

OPTIONS = {
    "out": Option(value="FILE", needs="the name of a file"),
    "overwrite": Option(),
    "json": JSON,
}
SETTINGS = OF_A_RUN


def run(words: list[str]) -> int:
    """Export; returns the exit code."""
    given, folder, flags = take_run(words, OPTIONS, SETTINGS, "an export")
    from raysb.export_run import export_run

    found = export_run(folder, given.get("out"), flags, overwrite=given.has("overwrite"))
    text = json.dumps(asdict(found)) if given.has("json") else "\n".join(lines(found))
    sys.stdout.write(text + "\n")
    return OK


def lines(found: "Exported") -> list[str]:
    """What was written, what it takes and gives, and how it compares with the model."""
    from raysb.layout import size

    taken = ", ".join(f"{name} {kind} {shape}" for name, kind, shape in found.columns)
    return [
        f"{found.run}: takes {taken} of each row, gives {found.outputs}",
        f"compared on {found.num_rows:,} rows: largest difference {found.difference:.1g} of the "
        "largest output",
        f"written: {found.path}, {size(found.num_bytes)}",
    ]
