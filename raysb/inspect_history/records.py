"""The history that a run left, read from its last checkpoint, under plain names.

column               type     what
id                   int64    the sample
loss                 float32  the last one that was finite
scored_loss          float32  that of the last scoring
mean_loss            float32  of the finite losses of all epochs
loss_variance        float32  of the same, divided by their number
times_scored         int32    epochs with a finite loss
times_selected       int32    epochs in which it was selected
times_nonfinite      int32    losses that were NaN or infinite; stops at 255
forgetting_events    int32    right at one scoring, wrong at the next
first_learned_epoch  int32    epoch of the first right prediction, from 0; 65535: none was
last_epoch           int32    epoch of the last record, from 0; 65535: only selected or trained
correct              bool     predicted rightly at the last scoring
selected             bool     selected at the last scoring
backward             bool     `loss` is of a training step, not of a scoring
nonfinite            bool     the last scoring gave no finite loss
weights_step         int32    optimizer steps behind the weights of the last score

Columns that a later release adds keep the names that the history has for them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.config import kind_of, load
from raysb.errors import RunDirectoryError
from raysb.history.records import NEVER
from raysb.history.table import LossTable
from raysb.report.directory import CHECKPOINT, CONFIG, checkpoints_of
from raysb.training.checkpoint import HISTORY, STREAM, load_stream

Samples: TypeAlias = dict[str, npt.NDArray[Any]]  # by column, in ascending order of ids

RENAMED = {"mean": "mean_loss", "variance": "loss_variance", "epoch": "last_epoch"}


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """What is known of each sample.

    Args:
        checkpoint: Folder that it was read from.
        num_steps: Optimizer steps until then.
        samples: Columns, by ascending id.
    """

    checkpoint: Path
    num_steps: int
    samples: Samples

    @property
    def num_samples(self) -> int:
        """Samples that are known."""
        return len(self.samples["id"])

    @property
    def num_epochs(self) -> int:
        """Epochs that at least began."""
        epochs = self.samples["last_epoch"]
        return int(epochs[epochs != NEVER].max(initial=-1)) + 1

    @property
    def judged(self) -> bool:
        """Whether any prediction ever was right: a regression knows no right and wrong."""
        return bool((self.samples["first_learned_epoch"] != NEVER).any())


def read_history(run: Path) -> RunHistory:
    """Read the history from the last checkpoint of a run, of either engine.

    Args:
        run: Directory of a run.

    Raises:
        FileNotFoundError: There is no such folder.
        RunDirectoryError: It holds no checkpoint, one without history, or of another release.
    """
    if not run.is_dir():
        raise FileNotFoundError(
            f"{run}: no such folder; give the run directory that `raysb train` named at its end"
        )
    checkpoint = _last_checkpoint(run)
    try:
        return _read(run, checkpoint)
    except RunDirectoryError:
        raise
    except Exception as error:  # of zip, JSON, numpy: damaged bytes raise whatever they meet
        reason = str(error) or type(error).__name__
        raise RunDirectoryError(
            f"{checkpoint}: {STREAM} or {HISTORY} cannot be read ({reason}); the checkpoint is "
            "damaged or was not copied as a whole: copy the run directory again"
        ) from error


def _read(run: Path, checkpoint: Path) -> RunHistory:
    state = load_stream(checkpoint)
    if state["history"] is None or len(state["history"]["id"]) == 0:
        raise RunDirectoryError(_why_none(run))
    table = LossTable()
    table.load_state_dict(state["history"])
    return RunHistory(
        checkpoint=checkpoint,
        num_steps=int(state["stream"]["counters"]["num_steps"]),
        samples={RENAMED.get(name, name): _plain(c) for name, c in table.export().items()},
    )


def _steps(tree: Any) -> int:
    return int(tree["stream"]["counters"]["num_steps"])


def _last_checkpoint(run: Path) -> Path:
    """The checkpoint with the most steps; names and times of files change when they are copied."""
    steps = {}
    held = list(run.glob(f"{CHECKPOINT}*/{STREAM}"))
    for file in sorted(held or checkpoints_of(run).glob(f"{CHECKPOINT}*/{STREAM}")):
        try:
            steps[file.parent] = _steps(json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError, RecursionError):
            steps[file.parent] = -1  # damaged; told when there is no other
    if not steps:
        raise RunDirectoryError(
            f"{run} holds no {CHECKPOINT}*/{STREAM}, and the history of a run lies in its "
            "checkpoints: give the directory that the run named at its end; one that was ended "
            "before its first checkpoint left no history"
        )
    return max(steps, key=lambda folder: steps[folder])


def _why_none(run: Path) -> str:
    """Why a run has no history, and what to do."""
    config = run / CONFIG
    kind = kind_of(load(config, of_run=True)) if config.is_file() else None
    why = "it trained without scoring, or ended before the first rows were scored"
    if kind == "uniform":
        why = "selector.kind=uniform trains on every row and scores none"
    return (
        f"{run} has no history: {why}. Train with a selector that scores; "
        "--selector.min_probability 1 trains on every row as uniform does and scores it too. "
        f"`raysb score {run} --out scores.parquet` gives one loss of every row without training"
    )


def _plain(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Small unsigned counts as int32: a difference of two of them would wrap round."""
    return column.astype(np.int32) if column.dtype in (np.uint8, np.uint16) else column
