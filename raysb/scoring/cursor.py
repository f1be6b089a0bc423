"""Where training stands: which pools are trained, and which selected rows still wait for it.

Rows that were selected and not trained when a checkpoint was written are named in it, with all that
scoring and selection know of them. Whoever resumes reads them again and trains them as they were:
nothing is scored a second time with later weights, nothing is trained twice, nothing is lost.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raysb.schema import ID, Batch, Ids, rows_of, take

NO_IDS: Ids = np.empty(0, np.int64)


class Waiting(NamedTuple):
    """The rows of a pool that are selected and not trained."""

    num_rows: int
    rows: Batch | None = None  # what the stages know of each, with its id, in order; `None` where
    # nothing was scored: then the pool gives the same rows again
    trained: Ids = NO_IDS  # those that it gives and that are trained, where `rows` is `None`

    def among(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Positions of these rows among the ids of the pool, in their order.

        Raises:
            KeyError: An id that waits is not there.
        """
        if self.rows is None:
            return left(ids, self.trained)
        wanted = self.rows[ID].astype(np.int64, copy=False)
        found, known = rows_of(wanted, ids)
        if len(missing := wanted[~known]):
            raise KeyError(int(missing[0]))
        return found


class Cursor(NamedTuple):
    """Where training stands in the order of the pools."""

    low: int = 0  # every pool before this one is fully trained
    done: tuple[int, ...] = ()  # later pools that are
    waiting: Mapping[int, Waiting] = {}  # pools that are selected from and not fully trained

    def state_dict(self) -> dict[str, Any]:
        """Numbers, lists and arrays."""
        return {
            "low": self.low,
            "done": list(self.done),
            "waiting": {str(pool): waiting._asdict() for pool, waiting in self.waiting.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Cursor":
        """What `state_dict` was taken of."""
        waiting = {int(pool): Waiting(**kept) for pool, kept in state["waiting"].items()}
        return cls(state["low"], tuple(state["done"]), waiting)


def left(ids: Ids, trained: Ids) -> npt.NDArray[np.int64]:
    """Positions of the ids that remain when each trained one takes off its first occurrence.

    An id may occur several times in a pool: some selectors draw with replacement.
    """
    order = np.argsort(ids, kind="stable")
    in_order = ids[order]
    occurrence = np.empty(len(ids), np.int64)
    occurrence[order] = np.arange(len(ids)) - np.searchsorted(in_order, in_order)
    taken = np.sort(trained)
    times = np.searchsorted(taken, ids, "right") - np.searchsorted(taken, ids, "left")
    return np.flatnonzero(occurrence >= times)


def waiting_of(num_selected: int, rows: Batch | None, trained: Ids, before: Ids) -> Waiting:
    """What is left of a pool.

    Args:
        num_selected: Rows that this generation was to train of it.
        rows: What is known of them, where they were scored.
        trained: Ids of those that it has trained.
        before: Ids that an earlier one had, where nothing was scored.
    """
    count = num_selected - len(trained)
    if rows is None:
        return Waiting(count, None, np.concatenate([before, trained]))
    return Waiting(count, take(rows, left(rows[ID].astype(np.int64, copy=False), trained)))
