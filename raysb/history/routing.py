"""Which shard an id lives in, and how the parts of several shards make one whole."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.history.index import Rows
from raysb.history.records import COLUMNS, LossRecords
from raysb.history.state import VERSION, check_state
from raysb.history.table import STATE_KEYS
from raysb.schema import Ids
from raysb.seeding import hash_ids, key

_SALT = key("shard")  # other bits than those of the shards' own index
_COUNTERS = tuple(name for name in STATE_KEYS if name not in COLUMNS)


def shard_of(ids: Ids, num_shards: int) -> npt.NDArray[np.int64]:
    """Shard of each id, a function of the id alone. [n], from 0 to num_shards - 1."""
    return (hash_ids(ids, _SALT) % np.uint64(num_shards)).astype(np.int64)


def split(ids: Ids, num_shards: int) -> list[Rows]:
    """Positions of the ids of each shard, ascending. num_shards arrays."""
    if num_shards == 1:
        return [np.arange(len(ids))]
    shard = shard_of(ids, num_shards)
    order = np.argsort(shard, kind="stable")
    return np.split(order, np.searchsorted(shard[order], np.arange(1, num_shards)))


def join_records(parts: Sequence[LossRecords], rows: Sequence[Rows]) -> LossRecords:
    """Records of all ids in the order asked, from those of each shard and their positions."""
    back = np.argsort(np.concatenate(rows))
    columns = (np.concatenate(column)[back] for column in zip(*parts, strict=True))
    return LossRecords(*columns)


def join_exports(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """The columns of all shards as if of one table: by ascending id."""
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["id"])
    return {name: column[order] for name, column in columns.items()}


def join_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of one table that knows what all shards know."""
    columns = [{name: state[name] for name in COLUMNS} for state in states]
    counters = {name: sum(state[name] for state in states) for name in _COUNTERS}
    return {"version": VERSION} | counters | join_exports(columns)


def split_state(state: Mapping[str, Any], num_shards: int) -> list[dict[str, Any]]:
    """States of the shards, from that of one table; the first takes what is counted over all."""
    check_state("LossHistory", state, STATE_KEYS)
    parts = []
    for shard, rows in enumerate(split(state["id"], num_shards)):
        counters = {name: state[name] if shard == 0 else 0 for name in _COUNTERS}
        columns = {name: state[name][rows] for name in COLUMNS}
        parts.append({"version": VERSION} | counters | columns)
    return parts
