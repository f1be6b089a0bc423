"""`raysb score`: the scores of every row, without training."""

import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

from raysb.commands.effect import refuse_without_effect
from raysb.commands.options import CONFIG, JSON, OK, VERBOSE, Option, UsageError, take_options

if TYPE_CHECKING:
    from raysb.scan.summary import Progress, ScoreSummary

HELP = """\
usage: raysb score RUN_DIR|WEIGHTS --out FILE [--data.train PATH] [--section.key VALUE ...]

Scores every row of the data once with a trained model, and writes a parquet file with a row for
each, in the order of the data: id, file, row (its position there), loss, margin, label_margin,
entropy, prediction, label, correct. Rows that the run held out are scored too (of a demo set, the
training rows only). Rows are scored in blocks; the speed that is told is that after the first one,
which has the start in it.

  RUN_DIR                         directory that `raysb train` named at its end; its settings hold
  WEIGHTS                         a safetensors file; --model.* and --data.* say the rest
  --out FILE                      parquet file to write, FILE.parquet
  --overwrite                     replace the file if it exists
  --config FILE                   TOML with settings, beside WEIGHTS
  --json                          one JSON object at the end, on standard output
  -v, --verbose                   Ray's own output, and tracebacks of errors

margin is the largest class probability minus the second largest, in [0, 1]; label_margin that of
the label minus the largest other one, in [-1, 1], below 0 where the prediction is wrong; entropy is
in nats. A regression has loss and prediction; `--data.target none` scores rows without labels.

Settings that have an effect, with the defaults of `raysb train --help`:

  --data.train PATH               what to score: parquet (file, folder, glob, URI) or a demo set
  --data.inputs, --data.target, --data.id, --data.image_size, --data.mean, --data.std
  --data.num_readers              processes that read and decode; 0: scorers read for themselves
  --model.name, --model.args, --model.norm, --model.convert_norm, --model.num_classes
  --train.loss, --train.loss_args
  --scoring.num_actors            scorers; of a pair the fewest: nobody trains who could be hungry
  --scoring.batch_size, --scoring.dtype
  --scoring.num_cpus, --scoring.num_gpus, --scoring.resources
  --engine ray|local, --address
"""

OPTIONS = {
    "out": Option(value="FILE", needs="the name of a file"),
    "overwrite": Option(),
    "config": CONFIG,
    "json": JSON,
    "verbose": VERBOSE,
}
SETTINGS = (
    *("data.train", "data.inputs", "data.target", "data.id", "data.image_size", "data.mean"),
    *("data.std", "data.num_readers", "model.name", "model.args", "model.norm"),
    "model.convert_norm",
    *("model.num_classes", "train.loss", "train.loss_args", "scoring.num_actors"),
    *("scoring.batch_size", "scoring.dtype", "scoring.num_cpus", "scoring.num_gpus"),
    "scoring.resources",
    *("engine", "address"),
)
FIRST_GAP_S = 5.0
GAP_GROWTH = 1 / 8  # of the time so far, as in training


def run(words: list[str]) -> int:
    """Score; returns the exit code."""
    given = take_options(words, OPTIONS)
    (weights,), flags = given.positional("RUN_DIR|WEIGHTS")
    out = given.get("out")
    if out is None:
        raise UsageError("--out FILE is needed: the parquet file that the scores are written to")
    refuse_without_effect(flags, SETTINGS, "scoring")
    from raysb.scan.run import score_configured

    with warnings.catch_warnings():
        warnings.showwarning = _plain_warning
        result = score_configured(
            weights,
            flags,
            out=out,
            config_file=given.get("config"),
            overwrite=given.has("overwrite"),
            watch=Lines(),
            verbose=given.has("verbose"),
        )
    text = json.dumps(result.as_json()) if given.has("json") else "\n".join(lines(result))
    sys.stdout.write(text + "\n")
    return OK


def lines(result: "ScoreSummary") -> list[str]:
    """What was scored, how fast, and where it lies."""
    from raysb.layout import size

    scored = [f"{result.num_rows:,} rows"]
    if result.error is not None:
        scored.append(f"error {result.error:.2%}")
    if result.loss is not None:
        scored.append(f"loss {result.loss:.4g}")
    if result.num_nonfinite:
        scored.append(f"{result.num_nonfinite:,} losses not finite")
    rate = "no rate, since all rows are one block"
    if result.rows_per_s is not None:
        rate = f"{result.rows_per_s:,.0f} rows/s after the first block"
    return [
        f"scored:  {', '.join(scored)}",
        f"speed:   {rate}, {result.wall_time_s:.1f} s in all, "
        f"{result.start_s:.1f} s until the first rows",
        f"written: {result.path}, {size(result.num_bytes)}: {', '.join(result.columns)}",
    ]


class Lines:
    """Lines of progress on standard error, less and less often."""

    def __init__(self) -> None:
        self._next_s = FIRST_GAP_S

    def __call__(self, progress: "Progress") -> None:
        """Show how far it is, if a line is due."""
        rate, over = progress.rows_per_s, progress.done == progress.total
        if progress.seconds < self._next_s or rate is None or over:
            return
        self._next_s = progress.seconds + max(FIRST_GAP_S, GAP_GROWTH * progress.seconds)
        from raysb.report.console import duration

        left = (progress.total - progress.done) / rate
        sys.stderr.write(
            f"scored {progress.done:,} of {progress.total:,} rows, "
            f"{rate:,.0f}/s, {duration(left)} left\n"
        )


def _plain_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
