"""The loss table as Ray actors: ids are routed to shards by hash, answers are put together again.

A call costs .3 ms to submit and 2 ms to return whatever its rows, so records go out pool by pool
and nobody waits for them. On one node one shard is fastest; several are for many nodes and for more
ids than one process holds.
"""

from collections import deque
from collections.abc import Mapping
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

from raysb.history.records import LossRecords
from raysb.history.routing import join_exports, join_records, join_states, split, split_state
from raysb.history.table import LossTable
from raysb.schema import Floats, Ids, PoolScores

_MAX_IN_FLIGHT = 16  # calls without an answer, per shard


class LossHistory:
    """Handle of all shards; passes between processes. `start` makes the first one.

    A shard that dies is started again, empty: what it knew is what a later `load_state_dict` or
    the next epoch's records bring. Calls that it had not finished are made again, which changes
    nothing since records are idempotent.

    Args:
        shards: Handles of the actors, in order.
    """

    def __init__(self, shards: list[Any]) -> None:
        self._shards = shards
        self._in_flight: deque[Any] = deque()

    @classmethod
    def start(cls, num_shards: int = 1, capacity: int = 0) -> "LossHistory":
        """Start the actors.

        Args:
            num_shards: At least 1.
            capacity: Ids expected in all, to reserve room for; 0 if unknown.

        Raises:
            ValueError: `num_shards` is below 1, or `capacity` is negative.
        """
        if num_shards < 1 or capacity < 0:
            raise ValueError(
                f"LossHistory.start(num_shards={num_shards}, capacity={capacity}): there must be "
                "at least 1 shard and a capacity of at least 0"
            )
        share = capacity / num_shards
        spread = 4 * sqrt(share) if num_shards > 1 else 0  # of a hash, four standard deviations
        actor: Any = ray.remote(LossTable)
        actor = actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        return cls([actor.remote(ceil(share + spread)) for _ in range(num_shards)])

    def __reduce__(self) -> tuple[type["LossHistory"], tuple[list[Any]]]:
        return LossHistory, (self._shards,)  # calls under way stay with the process that made them

    @property
    def num_shards(self) -> int:
        """Number of actors."""
        return len(self._shards)

    def record(self, scores: PoolScores) -> None:
        """Enter the scores of a pool without waiting; see `LossTable.record`.

        What goes wrong in a shard is raised by one of the next calls, at the latest by `flush`.
        """
        for shard, rows in self._split(scores.ids):
            correct = None if scores.correct is None else scores.correct[rows]
            self._send(
                shard.record.remote(
                    scores.ids[rows],
                    scores.losses[rows],
                    correct=correct,
                    selected=scores.selected[rows],
                    weights_step=scores.weights_step,
                    epoch=scores.epoch,
                )
            )

    def record_backward(self, ids: Ids, losses: Floats, weights_step: int) -> None:
        """Enter losses of a training step without waiting; see `LossTable.record_backward`."""
        for shard, rows in self._split(ids):
            self._send(shard.record_backward.remote(ids[rows], losses[rows], weights_step))

    def record_selected(self, ids: Ids, epoch: int) -> None:
        """Count ids selected unscored, without waiting; see `LossTable.record_selected`."""
        for shard, rows in self._split(ids):
            self._send(shard.record_selected.remote(ids[rows], epoch))

    def flush(self) -> None:
        """Wait until every record of this handle is entered."""
        while self._in_flight:
            ray.get(self._in_flight.popleft())

    def lookup(self, ids: Ids) -> LossRecords:
        """Return what is known about each id, records of this handle among it."""
        rows = split(ids, self.num_shards)
        asked = zip(self._shards, rows, strict=True)
        return join_records(ray.get([shard.lookup.remote(ids[r]) for shard, r in asked]), rows)

    def records(self) -> LossRecords:
        """What is known of every id, by ascending id."""
        columns = self.export()
        return LossRecords(known=np.ones(len(columns["id"]), np.bool_), **columns)

    def export(self) -> dict[str, npt.NDArray[Any]]:
        """All records as columns, by ascending id; see `LossTable.export`."""
        self.flush()
        return join_exports(ray.get([shard.export.remote() for shard in self._shards]))

    def state_dict(self) -> dict[str, Any]:
        """The state of one `LossTable` that knows what all shards know."""
        self.flush()
        return join_states(ray.get([shard.state_dict.remote() for shard in self._shards]))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state, of any number of shards or of a `LossTable`."""
        self.flush()
        parts = zip(self._shards, split_state(state, self.num_shards), strict=True)
        ray.get([shard.load_state_dict.remote(part) for shard, part in parts])

    def metrics(self) -> dict[str, float]:
        """The sums of `LossTable.metrics` over the shards."""
        parts = ray.get([shard.metrics.remote() for shard in self._shards])
        return {name: sum(part[name] for part in parts) for name in parts[0]}

    def _split(self, ids: Ids) -> list[tuple[Any, npt.NDArray[np.int64]]]:
        parts = zip(self._shards, split(ids, self.num_shards), strict=True)
        return [(shard, rows) for shard, rows in parts if len(rows)]

    def _send(self, call: Any) -> None:
        self._in_flight.append(call)
        while len(self._in_flight) > _MAX_IN_FLIGHT * self.num_shards:
            ray.get(self._in_flight.popleft())  # the oldest: in general answered long ago
