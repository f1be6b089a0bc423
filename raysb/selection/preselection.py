"""What becomes of a pool's rows before any of them is read: the seam of selection at the source.

A selector that remembers looks back once, when an epoch begins (`Outlook`). Of each pool's ids it
then says which rows are to be scored and which are trained as they are; the others are neither read
nor decoded (`Preselection`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raysb.schema import LOSS, PROBABILITY, WEIGHT, WEIGHTS_STEP, Batch, Floats, Ids, Selection

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outlook:
    """What a selector keeps of the history for one epoch: some columns, one entry per id.

    Args:
        ids: int64 [m], ascending.
        columns: Arrays of m entries, in the order of the ids.
    """

    ids: Ids
    columns: dict[str, npt.NDArray[Any]]

    def find(self, ids: Ids) -> tuple[Positions, npt.NDArray[np.bool_]]:
        """Entries of some ids, and which of them there are.

        Args:
            ids: int64 [n].

        Returns:
            int64 [n], 0 where there is none; bool [n].
        """
        if not len(self.ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        ascending = np.argsort(ids)  # searched in order they stay in the cache: 5x at a million
        entries = np.empty(len(ids), np.int64)
        entries[ascending] = np.searchsorted(self.ids, ids[ascending])
        entries = np.minimum(entries, len(self.ids) - 1, out=entries)
        known = self.ids[entries] == ids
        return np.where(known, entries, 0), known

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays."""
        return {"ids": self.ids, "columns": dict(self.columns)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Outlook":
        """What `state_dict` was taken of."""
        return cls(state["ids"], dict(state["columns"]))


class Preselection(NamedTuple):
    """What becomes of a pool's rows. Produced by `Selector.preselect`; consumed by reading."""

    score: Positions  # [m] rows to score, ascending
    drawn: Selection  # k other rows, to be trained without being scored
    loss: Floats | None = None  # [k] what is recorded of them
    weights_step: npt.NDArray[np.int64] | None = None  # [k] of the weights that scored them

    @property
    def rows(self) -> Positions:
        """All rows that are read, ascending. int64 [m + k]"""
        return np.sort(np.concatenate([self.score, self.drawn.indices]))

    def columns(self, *, scored: bool) -> Batch:
        """What is known of the rows that are read, in the order of `rows`.

        Args:
            scored: Whether the stream has a scoring stage: `loss` and `weights_step` are added,
                and the probability of rows that are still to be scored is NaN.
        """
        rows = self.rows
        place = np.searchsorted(rows, self.drawn.indices)
        probability = np.full(len(rows), np.nan, np.float32)
        probability[place] = self.drawn.probability
        weight = np.ones(len(rows), np.float32)
        weight[place] = self.drawn.weight
        columns: Batch = {PROBABILITY: probability, WEIGHT: weight}
        if scored:
            loss = np.full(len(rows), np.nan, np.float32)
            loss[place] = np.nan if self.loss is None else self.loss
            step = np.zeros(len(rows), np.int64)
            step[place] = 0 if self.weights_step is None else self.weights_step
            columns |= {LOSS: loss, WEIGHTS_STEP: step}
        return columns


def all_scored(count: int) -> Preselection:
    """Nothing is known: every row of a pool of so many is to be scored."""
    nothing = np.empty(0, np.float32)
    return Preselection(np.arange(count), Selection(np.empty(0, np.int64), nothing, nothing))
