"""`raysb tsne`: the rows of a run on a map."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raysb.commands.effect import DEVICE, OF_A_RUN, take_run
from raysb.commands.options import JSON, OK, Option, UsageError

if TYPE_CHECKING:
    from raysb.embedding import Embedded

HELP = """\
usage: raysb tsne RUN_DIR [--split test|train] [--rows N] [--perplexity P] [--out FILE]
                          [--overwrite] [--json] [--section.key VALUE ...]

Puts rows of a run on a map, by exact t-SNE of what the last linear layer of its model is given:
rows that look alike to the model lie side by side. Writes a picture, coloured by class, by loss
and, of training rows, by the epochs in which each was selected; and the coordinates beside it, as
parquet: id, x, y, label, prediction, loss, times_selected.

  RUN_DIR               directory that `raysb train` named at its end
  --split test|train    rows that the run tested on (default), or was trained on
  --rows N              so many of them, drawn by the run's seed (default: 500; at most 10,000)
  --perplexity P        neighbours that a row has in effect, below the number of rows (default: 30)
  --out FILE            FILE.png: picture, and FILE.parquet beside it; FILE.parquet: coordinates
                        alone, which need no matplotlib (default: tsne_test.png in RUN_DIR)
  --overwrite           replace files that exist
  --json                one JSON object

Up to 1,000 points are drawn as the numbers of their classes, more as dots; a ring marks a row that
is taken for another class. The picture needs matplotlib: pip install matplotlib

Settings that have an effect, with the defaults of the run:

  --data.test PATH                      other rows: parquet, or a demo set
  --data.train PATH                     where the training rows lie by now
  --data.test_fraction                  what is held out of them, where there is no data.test
  --data.inputs, --data.target, --data.id, --data.image_size, --data.mean, --data.std
  --model.name, --model.args, --model.norm, --model.num_classes
  --train.loss, --train.loss_args, --train.use_gpu, --train.num_threads
  --eval.batch_size

A model or a loss that is code of yours is imported only when it is named here:
--model.name package.module:function
"""

SPLITS = ("test", "train")
OPTIONS = {
    "split": Option(value="SPLIT", needs="test or train"),
    "rows": Option(value="N", needs="a whole number"),
    "perplexity": Option(value="P", needs="a number"),
    "out": Option(value="FILE", needs="the name of a file"),
    "overwrite": Option(),
    "json": JSON,
}
SETTINGS = (*OF_A_RUN, *DEVICE, "eval.batch_size")


def run(words: list[str]) -> int:
    """Draw; returns the exit code."""
    given, folder, flags = take_run(words, OPTIONS, SETTINGS, "the map of a run")
    chosen = _chosen(given.options)
    from raysb.embedding import Wanted, embed_run

    found = embed_run(folder, Wanted(**chosen), flags)
    text = json.dumps(asdict(found)) if given.has("json") else "\n".join(lines(found))
    sys.stdout.write(text + "\n")
    return OK


def _chosen(options: Any) -> dict[str, Any]:
    """The options as `Wanted` takes them."""
    chosen: dict[str, Any] = {k: options[k] for k in ("split", "out") if k in options}
    if chosen.get("split", SPLITS[0]) not in SPLITS:
        raise UsageError(f"--split {chosen['split']}: must be test or train")
    for name, kind, what in (("rows", int, "a whole number"), ("perplexity", float, "a number")):
        if name in options:
            try:
                chosen[name] = kind(options[name])
            except ValueError:
                raise UsageError(f"--{name} {options[name]}: {what} is needed") from None
    return {**chosen, "overwrite": "overwrite" in options}


def lines(found: "Embedded") -> list[str]:
    """What people read: which rows, how good the map is, and the files."""
    from raysb.layout import size

    of = f"{found.num_rows:,} rows"
    if found.num_rows < found.num_there:
        of = f"{found.num_rows:,} of {found.num_there:,} rows"
    told = [f"{found.num_features} features", f"KL divergence {found.kl_divergence:.3f} nats"]
    if found.num_wrong is not None:
        told.append(f"{found.num_wrong:,} taken for another class")
    text = [f"{found.run}: {of}, {found.rows}", ", ".join(told)]
    if found.missing is not None:
        text.append(f"without times selected: {found.missing}")
    for file in (found.picture, found.coordinates):
        if file is not None:
            columns = f": {', '.join(file.columns)}" if file.columns else ""
            text.append(f"written: {file.path}, {size(file.num_bytes)}{columns}")
    return text
