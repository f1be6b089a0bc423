"""`raysb history`: what a run learned about every sample."""

import json
import sys
from typing import TYPE_CHECKING, Any

from raysb.commands.effect import take_run
from raysb.commands.options import JSON, OK, Option, UsageError

if TYPE_CHECKING:
    from raysb.inspect_history.summary import Inspected

HELP = """\
usage: raysb history RUN_DIR [--top N] [--by ORDER] [--export FILE] [--images FILE]
                             [--no-origin] [--overwrite] [--json] [--data.train PATH]

Shows what a run learned about its samples, from its last checkpoint: those that are most telling,
by default those that look most like wrong labels. Of both engines; a run with selector.kind=uniform
scores nothing and leaves no history.

  RUN_DIR               directory that `raysb train` named at its end
  --top N               so many samples (default: 20)
  --by ORDER            the first ones by (default: suspicion)
      suspicion           mean of two ranks, that of mean_loss and that of loss: wrong labels first,
                          whether or not the net has learned them by heart
      loss                last loss
      mean_loss           mean loss over all epochs
      forgetting          times right at one scoring and wrong at the next, then mean_loss
      selected            times selected, then mean_loss
      never               only samples that were never predicted rightly, by mean_loss
  --export FILE         all samples by id, to FILE.parquet or FILE.csv; no list unless --top or --by
                        asks for it
  --images FILE         the pictures of the list to FILE.png, each with its label and what the
                        trained model says now (at most 500; needs the extra `images`)
  --no-origin           open no data: without file, row and label
  --overwrite           replace files that exist
  --json                one JSON object

The columns of the export, as far as they make sense: id; file, row and label of origin (row counts
from 0; of a demo set, among its training rows); loss (the last finite one), scored_loss (that of
the last scoring), mean_loss and loss_variance over the epochs; times_scored, times_selected,
times_nonfinite; forgetting_events, first_learned_epoch (from 0, null: never), correct (at the last
scoring); last_epoch, selected, backward (loss is of a training step), nonfinite, weights_step (of
the last score), suspicion. What is not known is null; samples without any record are not in it.

Settings that have an effect, with those of the run:

  --data.train PATH     where the data lie by now
  --data.id NAME        column of the ids, where it is called otherwise by now
  --model.name, --train.loss    with --images: code of yours is imported only when it is named here
"""

ORDERS = ("suspicion", "loss", "mean_loss", "forgetting", "selected", "never")
OPTIONS = {
    "top": Option(value="N", needs="a whole number"),
    "by": Option(value="ORDER", needs=f"one of {', '.join(ORDERS)}"),
    "export": Option(value="FILE", needs="the name of a file"),
    "images": Option(value="FILE", needs="the name of a file"),
    "no-origin": Option(),
    "overwrite": Option(),
    "json": JSON,
}
SETTINGS = ("data.train", "data.id", "model.name", "train.loss")


def run(words: list[str]) -> int:
    """Inspect; returns the exit code."""
    given, folder, flags = take_run(words, OPTIONS, SETTINGS, "the history of a run")
    if given.has("no-origin") and flags:
        raise UsageError(f"{flags[0]} has no effect with --no-origin, which opens no data")
    chosen = _chosen(given.options)
    from raysb.inspect_history.run import inspect_history
    from raysb.inspect_history.settings import Wanted

    found = inspect_history(folder, Wanted(**chosen), flags)
    alone = given.has("export") and not {"top", "by", "images"} & given.options.keys()
    text = json.dumps(found.as_json()) if given.has("json") else "\n".join(lines(found, not alone))
    sys.stdout.write(text + "\n")
    return OK


def _chosen(options: Any) -> dict[str, Any]:
    """The options as `Wanted` takes them."""
    chosen: dict[str, Any] = {k: options[k] for k in ("by", "export", "images") if k in options}
    if chosen.get("by", ORDERS[0]) not in ORDERS:
        raise UsageError(f"--by {chosen['by']}: must be one of {', '.join(ORDERS)}")
    if "top" in options:
        if not options["top"].isdecimal() or int(options["top"]) < 1:
            raise UsageError(f"--top {options['top']}: a whole number of at least 1 is needed")
        chosen["top"] = int(options["top"])
    return {**chosen, "origin": "no-origin" not in options, "overwrite": "overwrite" in options}


def lines(found: "Inspected", listed: bool = True) -> list[str]:
    """What people read: how much is known, the list, and the files."""
    from raysb.layout import size

    counts = found.counts
    kinds = [(counts.num_never_learned, "never predicted rightly")]
    kinds += [(counts.num_forgotten, "forgotten at least once")]
    kinds += [(counts.num_never_selected, "never selected"), (counts.num_nonfinite, "not finite")]
    said = [f"{number:,} {what}" for number, what in kinds if number is not None]
    text = [
        f"{found.run}: {counts.num_samples:,} samples, {counts.num_epochs} epochs, "
        f"{counts.num_steps:,} steps ({found.checkpoint})",
        f"samples: {', '.join(said)}",
    ]
    text += _table(found) if listed else []
    if found.export is not None:
        columns = ", ".join(found.export.columns)
        text.append(f"written: {found.export.path}, {size(found.export.num_bytes)}: {columns}")
    if found.images is not None:
        text.append(f"written: {found.images.path}, {size(found.images.num_bytes)}")
    return text


_SHOWN = {  # column -> its head
    "id": "id",
    "file": "file",
    "row": "row",
    "label": "label",
    "prediction": "net",
    "suspicion": "suspicion",
    "loss": "loss",
    "mean_loss": "mean loss",
    "times_selected": "selected",
    "forgetting_events": "forgotten",
    "first_learned_epoch": "first right",
    "correct": "last right",
}


def _table(found: "Inspected") -> list[str]:
    """The list, a line for each sample."""
    from raysb.inspect_history.order import words
    from raysb.layout import aligned

    heading = f"{words(found.by)}:"
    if not found.top:
        return ["", f"{heading} none", ""]
    names = [name for name in _SHOWN if any(name in sample for sample in found.top)]
    if len({sample.get("file") for sample in found.top}) < 2:
        names = [name for name in names if name != "file"]
    rows = [tuple(_SHOWN[name] for name in names)]
    for sample in found.top:
        rows.append(tuple(_cell(sample, name, found) for name in names))
    right = [i for i, name in enumerate(names) if name not in ("file", "correct")]
    return ["", heading, *aligned(rows, right=right), ""]


def _cell(sample: dict[str, Any], name: str, found: "Inspected") -> str:
    from raysb.inspect_history.summary import show

    value = sample.get(name)
    if name == "first_learned_epoch":
        return "never" if value is None else f"epoch {value}"
    if name == "correct":
        return "yes" if value else "no"
    if name == "times_selected":
        return f"{value} of {found.counts.num_epochs}"
    if name == "suspicion":
        return f"{value:.4f}"
    return show(value, found.classes if name in ("label", "prediction") else None)
