"""The loss table as Ray actors: ids are routed to shards by hash, answers are put together again.

A call costs .3 ms to submit and 2 ms to return whatever its rows, so records go out pool by pool
and nobody waits for them. On one node one shard is fastest; several are for many nodes and for more
ids than one process holds.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil, sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import ray

from raysb.history.index import MAX_ROWS
from raysb.history.records import LossRecords
from raysb.history.routing import join_exports, join_records, join_states, split, split_state
from raysb.history.table import LossTable
from raysb.placement import beside_driver
from raysb.precedence import step_back
from raysb.schema import Floats, Ids, PoolScores

Snapshot: TypeAlias = Callable[[], Mapping[str, Any] | None]

_MAX_IN_FLIGHT = 16  # calls without an answer, per shard


class HistoryShard(LossTable):
    """The actor of one shard: a table that takes records of the present generation only.

    Args:
        capacity: See `LossTable`.
        place: Its number, and the number of shards.
        snapshot: See `LossHistory.start`.
    """

    def __init__(self, capacity: int, place: tuple[int, int], snapshot: Snapshot | None) -> None:
        super().__init__(capacity)
        step_back()
        self._generation = 0
        context: Any = ray.get_runtime_context()
        known = snapshot() if snapshot and context.was_current_actor_reconstructed else None
        if known is not None:
            self.load_state_dict(split_state(known, place[1])[place[0]])

    def write(self, generation: int, method: str, *args: Any, **kwargs: Any) -> None:
        """Call one of the table's `record` methods."""
        if generation >= self._generation:
            getattr(self, method)(*args, **kwargs)

    def restore(self, generation: int, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state; what earlier generations write is refused then."""
        self._generation = generation
        self.load_state_dict(state)


class LossHistory:
    """Handle of all shards; passes between processes. `start` makes the first one.

    A single shard lies on the driver's machine; several lie wherever Ray puts them.

    A shard that dies is started again with what the last checkpoint knew of its ids; what it has
    learned since, the next epoch's records bring. Calls that it had not finished are made again,
    which changes nothing since records are idempotent.

    Args:
        shards: Handles of the actors, in order.
        generation: Of the worker group that this handle writes for. What an earlier one writes
            after `load_state_dict` of a later one is of a past that was undone, and refused.
    """

    def __init__(self, shards: list[Any], generation: int = 0) -> None:
        self._shards = shards
        self._generation = generation
        self._in_flight: deque[Any] = deque()

    @classmethod
    def start(
        cls, num_shards: int = 1, capacity: int = 0, snapshot: Snapshot | None = None
    ) -> "LossHistory":
        """Start the actors.

        Args:
            num_shards: At least 1.
            capacity: Ids expected in all, to reserve room for; 0 if unknown.
            snapshot: Called by a shard that was started again, for the newest saved state of the
                whole history or `None`; by default it is empty then.

        Raises:
            ValueError: `num_shards` is below 1, `capacity` is negative, or more than so many shards
                hold.
        """
        if num_shards < 1 or capacity < 0:
            raise ValueError(
                f"LossHistory.start(num_shards={num_shards}, capacity={capacity}): there must be "
                "at least 1 shard and a capacity of at least 0"
            )
        share = capacity / num_shards
        spread = 4 * sqrt(share) if num_shards > 1 else 0  # of a hash, four standard deviations
        if share + spread > MAX_ROWS:
            raise ValueError(
                f"history.num_shards={num_shards}: of {capacity:,} ids a shard has up to "
                f"{share + spread:,.0f}, and holds {MAX_ROWS:,} at most; raise it to "
                f"{ceil(1.001 * capacity / MAX_ROWS)}"
            )
        actor: Any = ray.remote(HistoryShard)
        where = {"scheduling_strategy": beside_driver()} if num_shards == 1 else {}
        actor = actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1, **where)
        room = ceil(share + spread)
        return cls([actor.remote(room, (i, num_shards), snapshot) for i in range(num_shards)])

    def __reduce__(self) -> tuple[type["LossHistory"], tuple[list[Any], int]]:
        # calls under way stay with the process that made them
        return LossHistory, (self._shards, self._generation)

    def of(self, generation: int) -> "LossHistory":
        """A handle that writes for a generation of the worker group."""
        return LossHistory(self._shards, generation)

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
                shard.write.remote(
                    self._generation,
                    "record",
                    scores.ids[rows],
                    scores.losses[rows],
                    correct=correct,
                    selected=scores.selected[rows],
                    weights_step=scores.weights_step,
                    epoch=scores.epoch,
                )
            )

    def record_backward(self, ids: Ids, losses: Floats, weights_step: int | Ids) -> None:
        """Enter losses of training steps without waiting; see `LossTable.record_backward`."""
        steps = np.broadcast_to(weights_step, ids.shape)
        for shard, rows in self._split(ids):
            told = (ids[rows], losses[rows], steps[rows])
            self._send(shard.write.remote(self._generation, "record_backward", *told))

    def record_selected(self, ids: Ids, epoch: int) -> None:
        """Count ids selected unscored, without waiting; see `LossTable.record_selected`."""
        for shard, rows in self._split(ids):
            told = (ids[rows], epoch)
            self._send(shard.write.remote(self._generation, "record_selected", *told))

    def flush(self) -> None:
        """Wait until every record of this handle is entered; threads may ask side by side."""
        calls = list(self._in_flight.copy())  # at once: another thread may add to it
        ray.get(calls)
        for call in calls:
            with suppress(ValueError):  # another thread has waited for it too
                self._in_flight.remove(call)

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
        ray.get([shard.restore.remote(self._generation, part) for shard, part in parts])

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
