"""Rows by id: an open-addressing hash index in plain numpy, asked for many ids at a time.

Python loops over probe rounds only. Probe k of an id with hash (high, low), 32 bits each, looks at

    slot = ((low + k * (high | 1)) mod 2^32) * num_slots / 2^32

The odd stride visits all 2^32 positions, so every slot is reached and every search ends; the
multiplication takes any number of slots, so the index grows by less than a factor of two.
"""

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids
from raysb.seeding import hash_ids

Rows = npt.NDArray[np.int64]

MAX_ROWS = 2**30
_SLOTS_PER_ROW = 2  # 8 bytes per id; at most half of the slots are taken, two probes on average
_CHUNK = 2**20  # rows rehashed at a time: bounds the temporaries of a growing table
_EMPTY = -1


class IdIndex:
    """Where the row of an id is. Holds no ids: callers pass the column that does.

    Args:
        capacity: Rows that fit, from 0 to 2^30.
    """

    def __init__(self, capacity: int) -> None:
        self._slots = np.full(_SLOTS_PER_ROW * capacity, _EMPTY, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of the slots: 8 per row of capacity."""
        return self._slots.nbytes

    def find(self, ids: Ids, column: Ids) -> Rows:
        """Return the row of each id in `column`, -1 for an id that was not added. [n]."""
        rows = np.full(len(ids), _EMPTY, np.int64)
        if not len(self._slots):
            return rows
        asked = np.arange(len(ids))
        position, stride = _probes(ids)
        while len(asked):
            held = self._slots[self._slot(position)]
            taken = held != _EMPTY
            same = taken & (column[held] == ids[asked])
            rows[asked[same]] = held[same]
            on = taken & ~same
            asked, stride = asked[on], stride[on]
            position = position[on] + stride
        return rows

    def add(self, ids: Ids, rows: Rows) -> None:
        """Enter ids that are not in the index, each once. [n], [n]."""
        position, stride = _probes(ids)
        while len(rows):
            slot = self._slot(position)
            free = self._slots[slot] == _EMPTY
            self._slots[slot[free]] = rows[free]
            on = self._slots[slot] != rows  # taken before, or by another row of this call
            rows, stride = rows[on], stride[on]
            position = position[on] + stride

    def add_all(self, column: Ids) -> None:
        """Enter every row of a column of distinct ids."""
        for start in range(0, len(column), _CHUNK):
            part = column[start : start + _CHUNK]
            self.add(part, np.arange(start, start + len(part)))

    def _slot(self, position: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint64]:
        scaled = position.astype(np.uint64) * np.uint64(len(self._slots))
        return scaled >> np.uint64(32)


def _probes(ids: Ids) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    bits = hash_ids(ids)
    return bits.astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
