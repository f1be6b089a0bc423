"""What is known about every sample: one row per id, in columns, without Ray.

The core takes 24 bytes per id (id 8, last loss 4, weights_step 4, index 8), the statistics 24 more.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.history.index import MAX_ROWS, IdIndex, Rows
from raysb.history.records import (
    BACKWARD,
    COLUMNS,
    CORRECT,
    FORGOT,
    NEVER,
    NONFINITE,
    SELECTED,
    UNSCORED,
    WAS_CORRECT,
    Bools,
    Columns,
    LossRecords,
    blank,
    blank_column,
    flag,
    moments,
    read,
)
from raysb.history.state import VERSION, check_state
from raysb.schema import Floats, Ids

_GROWTH = 1.25
_MIN_ROWS = 1024

STATE_KEYS = ("num_ignored", "num_nonfinite", *COLUMNS)


class LossTable:
    """Last loss and running statistics per id; ids are any int64.

    Args:
        capacity: Ids to reserve room for, exactly; the table grows by a quarter beyond it. 0
            reserves nothing.

    Raises:
        ValueError: `capacity` is negative or above 2^30, what one shard can hold.
    """

    def __init__(self, capacity: int = 0) -> None:
        if not 0 <= capacity <= MAX_ROWS:
            raise ValueError(
                f"LossTable(capacity={capacity}): must be from 0 to {MAX_ROWS}; for more ids raise "
                "history.num_shards"
            )
        self._size = 0
        self._num_ignored = 0
        self._num_nonfinite = 0
        self._columns = blank(capacity)
        self._index = IdIndex(capacity)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes reserved: 48 per id of the capacity."""
        return sum(column.nbytes for column in self._columns.values()) + self._index.nbytes

    def record(
        self,
        ids: Ids,
        losses: Floats,
        *,
        correct: npt.NDArray[np.uint8] | None,
        selected: Bools,
        weights_step: int,
        epoch: int,
    ) -> None:
        """Enter what scoring and selection learned about some ids in one epoch.

        A second record of the same id and epoch replaces the first in everything; one of an
        earlier epoch than the last is ignored and counted. Of an id that occurs twice in a call,
        the last row counts. A loss that is not finite is flagged and counted; it enters neither
        the statistics nor `loss`, which stays the last finite loss that arrived.

        Args:
            ids: int64 [n].
            losses: float32 [n], not all finite where the model's were not.
            correct: [n], or `None` where the task has no right answer.
            selected: [n].
            weights_step: Optimizer steps behind the weights that scored.
            epoch: From 0 to 65534.

        Raises:
            ValueError: `epoch` is out of range, or lengths differ. Nothing was recorded.
        """
        if not 0 <= epoch < NEVER:
            raise ValueError(f"LossTable.record(epoch={epoch}): must be from 0 to {NEVER - 1}")
        judged = np.zeros(len(ids), np.bool_) if correct is None else correct.astype(np.bool_)
        if not len(ids) == len(losses) == len(judged) == len(selected):
            raise ValueError(
                f"LossTable.record: {len(ids)} ids, {len(losses)} losses, {len(judged)} correct "
                f"and {len(selected)} selected; all must be equally many. Nothing was recorded"
            )
        last = _last_of_each(ids)
        rows = self._rows(ids[last])
        held = self._columns["epoch"][rows]
        timely = (held == NEVER) | (held <= epoch)
        self._num_ignored += len(rows) - int(timely.sum())
        last, rows = last[timely], rows[timely]
        flags = self._columns["flags"][rows]
        again = held[timely] == epoch
        replay = again & (flags & UNSCORED == 0)

        bits = self._enter_losses(rows, losses[last], weights_step, replay)
        bits |= self._enter_learning(rows, judged[last], correct is not None, epoch, replay)
        bits |= flag(selected[last], SELECTED)
        self._add("times_selected", rows, selected[last], again & (flags & SELECTED > 0))
        self._columns["flags"][rows] = bits
        self._columns["epoch"][rows] = epoch

    def record_selected(self, ids: Ids, epoch: int) -> None:
        """Count ids that were selected in an epoch without being scored; once per epoch and id.

        Args:
            ids: int64 [n], distinct.
            epoch: From 0 to 65534; that of an earlier epoch than the last record is ignored.
        """
        rows = self._rows(ids)
        held = self._columns["epoch"][rows]
        timely = (held == NEVER) | (held <= epoch)
        rows, held = rows[timely], held[timely]
        flags, again = self._columns["flags"][rows], held == epoch
        counted = again & (flags & SELECTED > 0)
        self._add("times_selected", rows, np.ones(len(rows), np.bool_), counted)
        scored_here = again & (flags & UNSCORED == 0)
        self._columns["flags"][rows] |= SELECTED | flag(~scored_here, UNSCORED)
        self._columns["epoch"][rows] = epoch

    def record_backward(self, ids: Ids, losses: Floats, weights_step: int | Ids) -> None:
        """Enter losses of training steps as the last losses of their ids, marked as such.

        Statistics stay as they are: these losses are of selected rows only, in training mode.
        Losses that are not finite, and those older than the loss held (by `weights_step`), are
        left out. `weights_step` stays that of the score, by which losses of like age are compared;
        of an id that was never scored it becomes that of the training step.

        Args:
            ids: int64 [n], without those of rows that only pad the batch.
            losses: float32 [n].
            weights_step: Optimizer steps behind the weights that gave the losses, of all or each;
                int64 [n] ascending.
        """
        steps = np.broadcast_to(weights_step, ids.shape)
        finite = np.flatnonzero(np.isfinite(losses))
        last = finite[_last_of_each(ids[finite])]
        rows = self._rows(ids[last])
        newest = self._columns["weights_step"][rows] <= steps[last]
        rows, last = rows[newest], last[newest]
        self._columns["loss"][rows] = losses[last]
        unscored = self._columns["times_scored"][rows] == 0
        self._columns["weights_step"][rows[unscored]] = steps[last[unscored]]
        self._columns["flags"][rows] |= BACKWARD

    def lookup(self, ids: Ids) -> LossRecords:
        """Return what is known about each id, in their order; repeated ids are fine."""
        rows = self._index.find(ids, self._columns["id"])
        known = rows >= 0
        columns = blank(len(ids)) | {"id": ids}
        if known.all():
            columns |= self._gather(rows)
        elif known.any():
            for name, values in self._gather(rows[known]).items():
                if name != "id":
                    columns[name][known] = values
        return read(columns, known)

    def ids(self) -> Ids:
        """All ids, ascending. int64 [N]."""
        return np.sort(self._columns["id"][: self._size])

    def variance(self) -> Floats:
        """Variance of each id's finite losses, in the order of `ids()`. float32 [N]."""
        return self.records().variance

    def records(self) -> LossRecords:
        """What is known of every id, by ascending id."""
        return read(self._gather(self._order()), np.ones(self._size, np.bool_))

    def export(self) -> dict[str, npt.NDArray[Any]]:
        """All records as columns (the fields of `LossRecords` but `known`), by ascending id."""
        columns = self.records()._asdict()
        del columns["known"]
        return columns

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: numbers and arrays, by ascending id."""
        counters = {"num_ignored": self._num_ignored, "num_nonfinite": self._num_nonfinite}
        return {"version": VERSION} | counters | self._gather(self._order())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state.

        Raises:
            ValueError: The state is not one of a `LossTable`.
        """
        check_state("LossTable", state, STATE_KEYS)
        self._num_ignored = int(state["num_ignored"])
        self._num_nonfinite = int(state["num_nonfinite"])
        self._size = len(state["id"])
        capacity = max(self._size, self._capacity)
        self._columns, self._index = blank(capacity), IdIndex(capacity)
        for name, column in self._columns.items():
            column[: self._size] = state[name]
        self._index.add_all(self._columns["id"][: self._size])

    def metrics(self) -> dict[str, float]:
        """Ids known, records ignored as too old, losses that were not finite, bytes reserved."""
        return {
            "num_ids": float(self._size),
            "num_ignored": float(self._num_ignored),
            "num_nonfinite": float(self._num_nonfinite),
            "nbytes": float(self.nbytes),
        }

    def _enter_losses(
        self, rows: Rows, losses: Floats, weights_step: int, replay: Bools
    ) -> npt.NDArray[np.uint8]:
        new = rows[~replay]
        with np.errstate(over="ignore"):  # an M2 above 3e38 is infinite
            # the loss of the epoch before joins the statistics
            self._columns["mean"][new], self._columns["m2"][new] = moments(self._gather(new))
        finite = np.isfinite(losses)
        counted = replay & np.isfinite(self._columns["scored_loss"][rows])
        self._add("times_scored", rows, finite, counted)
        self._columns["scored_loss"][rows] = np.where(finite, losses, np.float32(np.nan))
        self._columns["loss"][rows[finite]] = losses[finite]
        self._columns["weights_step"][rows[finite]] = weights_step
        flags = self._columns["flags"][rows]
        self._count_nonfinite(rows, ~finite, replay & (flags & NONFINITE > 0))
        return flag(~finite, NONFINITE) | np.where(finite, np.uint8(0), flags & BACKWARD)

    def _enter_learning(
        self, rows: Rows, correct: Bools, judged: bool, epoch: int, replay: Bools
    ) -> npt.NDArray[np.uint8]:
        flags = self._columns["flags"][rows]
        was_correct = np.where(replay, flags & WAS_CORRECT, flags & CORRECT) > 0
        forgot = was_correct & ~correct & judged
        self._add("forgetting_events", rows, forgot, replay & (flags & FORGOT > 0))
        first = self._columns["first_learned_epoch"][rows]
        never_before = (first == NEVER) | (replay & (first == epoch))
        here = np.where(correct, epoch, NEVER)
        self._columns["first_learned_epoch"][rows] = np.where(never_before, here, first)
        bits = flag(correct, CORRECT) | flag(was_correct, WAS_CORRECT)
        return bits | flag(forgot, FORGOT)

    def _count_nonfinite(self, rows: Rows, wrong: Bools, counted: Bools) -> None:
        self._num_nonfinite += int(wrong.sum()) - int(counted.sum())
        countable = self._columns["times_nonfinite"][rows] < np.iinfo(np.uint8).max
        self._add("times_nonfinite", rows, wrong & countable, counted & countable)

    def _add(self, name: str, rows: Rows, plus: Bools, minus: Bools) -> None:
        column = self._columns[name]
        column[rows] = column[rows] + plus - minus

    def _gather(self, rows: Rows) -> Columns:
        return {name: column[rows] for name, column in self._columns.items()}

    def _order(self) -> Rows:
        return np.argsort(self._columns["id"][: self._size])

    @property
    def _capacity(self) -> int:
        return len(self._columns["id"])

    def _rows(self, ids: Ids) -> Rows:
        """Rows of distinct ids, new ones for those that are not known."""
        rows = self._index.find(ids, self._columns["id"])
        new = ids[rows < 0]
        if len(new):
            added = np.arange(self._size, self._size + len(new))
            self._reserve(self._size + len(new))
            self._columns["id"][added] = new
            self._index.add(new, added)
            self._size += len(new)
            rows[rows < 0] = added
        return rows

    def _reserve(self, size: int) -> None:
        if size <= self._capacity:
            return
        if size > MAX_ROWS:
            raise ValueError(
                f"LossTable: {size} ids do not fit one shard of at most {MAX_ROWS}; raise "
                "history.num_shards"
            )
        grown = min(max(size, int(self._capacity * _GROWTH), _MIN_ROWS), MAX_ROWS)
        for name in COLUMNS:  # one after the other: only one column is held twice
            column = blank_column(name, grown)
            column[: self._size] = self._columns[name][: self._size]
            self._columns[name] = column
        self._index = IdIndex(grown)
        self._index.add_all(self._columns["id"][: self._size])


def _last_of_each(ids: Ids) -> Rows:
    """Positions of the last occurrence of each id, ascending."""
    _, from_the_end = np.unique(ids[::-1], return_index=True)
    return np.sort(len(ids) - 1 - from_the_end)
