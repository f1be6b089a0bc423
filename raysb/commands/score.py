"""`raysb score`: the scores of every row, without training."""

import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

from raysb.commands.options import CONFIG, JSON, OK, VERBOSE, Option, UsageError, take_options

if TYPE_CHECKING:
    from raysb.scan.summary import Progress, ScoreSummary

HELP = """\
usage: raysb score RUN_DIR|WEIGHTS --out FILE [--data.train PATH] [--section.key VALUE ...]

Scores every row of the data once with a trained model, and writes a parquet file with a row for
each, in the order of the data: id, file, row (its position there), loss, margin, label_margin,
entropy, prediction, label, correct. Rows that the run held out are scored too (of a demo set, the
training rows only).

  RUN_DIR                         directory that `raysb train` named at its end; its settings hold
  WEIGHTS                         a safetensors file; --model.* and --data.* say the rest
  --out FILE                      parquet file to write
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
  --model.name, --model.args, --model.norm, --model.num_classes
  --train.loss, --train.loss_args
  --scoring.num_actors, --scoring.batch_size, --scoring.dtype
  --scoring.num_cpus, --scoring.num_gpus
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
    *("model.num_classes", "train.loss", "train.loss_args", "scoring.num_actors"),
    *("scoring.batch_size", "scoring.dtype", "scoring.num_cpus", "scoring.num_gpus"),
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
    _refuse_without_effect(flags)
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
    return [
        f"scored:  {', '.join(scored)}",
        f"speed:   {result.rows_per_s:,.0f} rows/s, {result.wall_time_s:.1f} s in all, "
        f"{result.start_s:.1f} s until the first rows",
        f"written: {result.path}, {size(result.num_bytes)}: {', '.join(result.columns)}",
    ]


class Lines:
    """Lines of progress on standard error, less and less often."""

    def __init__(self) -> None:
        self._next_s = FIRST_GAP_S

    def __call__(self, progress: "Progress") -> None:
        """Show how far it is, if a line is due."""
        over = progress.done in (progress.first_rows, progress.total)  # no rate yet, no need
        if progress.seconds < self._next_s or over:
            return
        self._next_s = progress.seconds + max(FIRST_GAP_S, GAP_GROWTH * progress.seconds)
        from raysb.report.console import duration

        left = (progress.total - progress.done) / progress.rows_per_s
        sys.stderr.write(
            f"scored {progress.done:,} of {progress.total:,} rows, "
            f"{progress.rows_per_s:,.0f}/s, {duration(left)} left\n"
        )


def _refuse_without_effect(flags: list[str]) -> None:
    """A setting that scoring does not read would be taken for one that changed something."""
    from raysb.config import settings

    for word in flags:
        key = word.removeprefix("--").partition("=")[0].replace("-", "_")
        known = any(key == name or key.startswith(f"{name}.") for name in SETTINGS)
        if not known and key in settings():
            raise UsageError(
                f"{key} has no effect on scoring; settings that have one: {', '.join(SETTINGS)}"
            )


def _plain_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    sys.stderr.write(f"warning: {message}\n")
