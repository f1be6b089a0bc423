"""The columns of the loss table, 40 bytes per id, and what is read from them.

The latest record of a row stays apart (`scored_loss` and the flags) and enters the mean and M2 only
when the next epoch's arrives: a replay replaces it bit for bit, without subtracting anything.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.schema import Floats, Ids

NEVER = 65535  # in `epoch` and `first_learned_epoch`

CORRECT = np.uint8(1)  # right at the last record
WAS_CORRECT = np.uint8(2)  # right at the record before
FORGOT = np.uint8(4)  # the last record was a forgetting event
SELECTED = np.uint8(8)  # selected at the last record
BACKWARD = np.uint8(16)  # `loss` comes from a backward pass
NONFINITE = np.uint8(32)  # the last record's loss was not finite
UNSCORED = np.uint8(64)  # selected in `epoch`, and not scored in it

# name -> (dtype, value of a row that was never recorded). An id is recorded once per epoch, so
# 16 bits count what 16 bits of epoch allow.
COLUMNS: dict[str, tuple[type[np.generic], float]] = {
    "id": (np.int64, 0),
    "loss": (np.float32, np.nan),  # the last finite one
    "weights_step": (np.int32, 0),  # of the last score
    "mean": (np.float32, 0),  # Welford, over all records before the last
    "m2": (np.float32, 0),
    "scored_loss": (np.float32, np.nan),  # the last record's; NaN where that was not finite
    "times_scored": (np.uint16, 0),  # with a finite loss
    "times_selected": (np.uint16, 0),
    "first_learned_epoch": (np.uint16, NEVER),
    "forgetting_events": (np.uint16, 0),
    "epoch": (np.uint16, NEVER),  # of the last record
    "flags": (np.uint8, 0),
    "times_nonfinite": (np.uint8, 0),  # stops at 255
}

Bools: TypeAlias = npt.NDArray[np.bool_]
Columns: TypeAlias = dict[str, npt.NDArray[Any]]


class LossRecords(NamedTuple):
    """What the table knows about some ids, one entry per id. Produced by `LossTable.lookup`."""

    id: Ids
    known: Bools
    loss: Floats  # last finite loss, NaN where there is none
    scored_loss: Floats  # of the last time it was scored; NaN where that was not finite
    weights_step: npt.NDArray[np.int32]  # of the weights that last scored it; of those that gave
    # `loss` where nothing scored it, 0 where there is none
    mean: Floats  # of the finite losses of all epochs, NaN where there is none
    variance: Floats  # of the same (divided by their number), NaN where there is none
    times_scored: npt.NDArray[np.uint16]  # epochs with a finite loss
    times_selected: npt.NDArray[np.uint16]
    first_learned_epoch: npt.NDArray[np.uint16]  # 65535: never predicted rightly
    forgetting_events: npt.NDArray[np.uint16]  # right at one record, wrong at the next
    epoch: npt.NDArray[np.uint16]  # of the last record, 65535: never recorded
    correct: Bools  # at the last record
    selected: Bools  # at the last record
    backward: Bools  # `loss` comes from a backward pass
    nonfinite: Bools  # the last record's loss was not finite
    times_nonfinite: npt.NDArray[np.uint8]  # stops at 255

    def times_selected_before(self, epoch: int) -> npt.NDArray[np.int64]:
        """How often each id was selected before an epoch, also where it is being replayed. [n]"""
        here = self.selected & (self.epoch == epoch)
        before: npt.NDArray[np.int64] = self.times_selected.astype(np.int64) - here
        return before


def blank(size: int) -> Columns:
    """Columns of rows that were never recorded. [size] each."""
    return {name: blank_column(name, size) for name in COLUMNS}


def blank_column(name: str, size: int) -> npt.NDArray[Any]:
    """One column of rows that were never recorded. [size]."""
    dtype, fill = COLUMNS[name]
    return np.full(size, fill, dtype)


def flag(where: Bools, bit: np.uint8) -> npt.NDArray[np.uint8]:
    """The bit where it is true, else 0. [n]."""
    return where.astype(np.uint8) * bit


def moments(rows: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[np.float64], ...]:
    """Mean and M2 of all finite losses, the last record's among them (Welford 1962).

    mean' = mean + (x - mean) / n;  M2' = M2 + (x - mean) * (x - mean')
    """
    mean, m2 = rows["mean"].astype(np.float64), rows["m2"].astype(np.float64)
    last = rows["scored_loss"].astype(np.float64)
    last = np.where(np.isnan(last), mean, last)  # the mean itself changes nothing
    updated = mean + (last - mean) / np.maximum(rows["times_scored"], 1)
    return updated, m2 + (last - mean) * (last - updated)


def read(rows: Mapping[str, npt.NDArray[Any]], known: Bools) -> LossRecords:
    """Records of the given rows of all columns. [n] each."""
    mean, m2 = moments(rows)
    times = np.where(rows["times_scored"] > 0, rows["times_scored"], np.nan)
    flags = rows["flags"]
    with np.errstate(over="ignore"):  # a variance above 3e38 is infinite
        variance = (m2 / times).astype(np.float32)
    return LossRecords(
        id=rows["id"],
        known=known,
        loss=rows["loss"],
        scored_loss=rows["scored_loss"],
        weights_step=rows["weights_step"],
        mean=np.where(np.isnan(times), np.nan, mean).astype(np.float32),
        variance=variance,
        times_scored=rows["times_scored"],
        times_selected=rows["times_selected"],
        first_learned_epoch=rows["first_learned_epoch"],
        forgetting_events=rows["forgetting_events"],
        epoch=rows["epoch"],
        correct=flags & CORRECT > 0,
        selected=flags & SELECTED > 0,
        backward=flags & BACKWARD > 0,
        nonfinite=flags & NONFINITE > 0,
        times_nonfinite=rows["times_nonfinite"],
    )
