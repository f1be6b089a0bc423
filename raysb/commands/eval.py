"""`raysb eval`: judge a finished run again, or on other rows."""

import json
import sys
from typing import TYPE_CHECKING

from raysb.commands.effect import DEVICE, OF_A_RUN, take_run
from raysb.commands.options import JSON, OK, Option

if TYPE_CHECKING:
    from raysb.evaluate import Evaluated

HELP = """\
usage: raysb eval RUN_DIR [--data.test PATH] [--best] [--section.key VALUE ...] [--json]
                   [--help]

Loads model.safetensors with the configuration of the run and evaluates it: on the rows that the
run tested on, or on others.

  RUN_DIR                         directory that `raysb train` named at its end
  --data.test PATH                other rows: parquet, or a demo set
  --best                          the weights of the best evaluation, instead of the last:
                                  model_best.safetensors, which train.save_best leaves
  --json                          one JSON object

Settings that have an effect, with the defaults of the run:

  --data.train, --data.test_fraction    what rows are held out of, where there is no data.test
  --data.inputs, --data.target, --data.id, --data.image_size, --data.mean, --data.std
  --model.name, --model.args, --model.norm, --model.num_classes
  --train.loss, --train.loss_args, --train.use_gpu, --train.num_threads
  --eval.batch_size

A model or a loss that is code of yours is imported only when it is named here:
--model.name package.module:function
"""

OPTIONS = {"best": Option(), "json": JSON}
SETTINGS = (*OF_A_RUN, *DEVICE, "eval.batch_size")
MOST_CONFUSIONS = 5
MOST_CLASSES = 20  # lines of the table; a thousand classes are read from --json


def run(words: list[str]) -> int:
    """Evaluate; returns the exit code."""
    given, folder, flags = take_run(words, OPTIONS, SETTINGS, "an evaluation")
    from raysb.evaluate import evaluate_run

    result = evaluate_run(folder, flags, best=given.has("best"))
    text = json.dumps(result.as_json()) if given.has("json") else "\n".join(lines(result))
    sys.stdout.write(text + "\n")
    return OK


def lines(result: "Evaluated") -> list[str]:
    """What people read: the figures, how they compare with the run's own, and the classes."""
    found = [f"{result.run}: {result.num_rows:,} rows, {result.rows}", _figures(result.metrics)]
    if result.recorded is not None:
        equal = result.recorded == result.metrics
        said = "the same" if equal else _figures(result.recorded)
        found.append(f"recorded {result.when}: {said}")
    return found + _class_lines(result)


def _figures(metrics: dict[str, float]) -> str:
    error = [f"error {metrics['eval/error']:.2%}"] if "eval/error" in metrics else []
    return ", ".join([*error, f"loss {metrics['eval/loss']:.4g}"])


def _class_lines(result: "Evaluated") -> list[str]:
    from raysb.layout import aligned

    if result.worst is None:
        return []
    shown = list(result.classes)
    if len(shown) > MOST_CLASSES:
        shown = sorted(shown, key=lambda each: -each.error)[:MOST_CLASSES]
    rows = [("class", "rows", "wrong", "error")]
    rows += [(str(c.label), f"{c.num_rows:,}", f"{c.num_wrong:,}", f"{c.error:.2%}") for c in shown]
    table = ["", *aligned(rows, right=range(4))]
    if len(shown) < len(result.classes):
        table.append(f"the worst {len(shown)} of {len(result.classes)} classes; all with --json")
    table += _confusion_line(result)
    return [*table, f"worst: class {result.worst.label}, error {result.worst.error:.2%}"]


def _confusion_line(result: "Evaluated") -> list[str]:
    """The pairs of classes that are confused most."""
    most = [f"{c.label} as {c.prediction} ({c.num_rows:,})" for c in result.confusions]
    return [f"taken for another: {', '.join(most[:MOST_CONFUSIONS])}"] if most else []
