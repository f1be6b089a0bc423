"""Rows by id: an open-addressing hash index in plain numpy, asked for many ids at a time.

Python loops over probe rounds only. Probe k of an id looks at

    slot = floor(u_k * num_slots), u_k in [0, 1) the k-th output of splitmix64 seeded by the id

so ids do not cluster, at most half of the slots being taken gives two probes on average, and the
number of slots need be neither prime nor a power of two: the index grows by a quarter.
"""

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids
from raysb.seeding import hash_ids, mix64

Rows = npt.NDArray[np.int64]

MAX_ROWS = 2**30
_SLOTS_PER_ROW = 2  # 8 bytes per id
_CHUNK = 2**20  # rows rehashed at a time: bounds the temporaries of a growing table
_EMPTY = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the increment of splitmix64


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
        bits = state = hash_ids(ids)
        while len(asked):
            held = self._slots[self._slot(bits)]
            rows[asked] = held
            on = (held != _EMPTY) & (column[held] != ids[asked])
            asked, state = asked[on], state[on] + _GOLDEN
            bits = mix64(state)
        return rows

    def add(self, ids: Ids, rows: Rows) -> None:
        """Enter ids that are not in the index, each once. [n], [n]."""
        bits = state = hash_ids(ids)
        while len(rows):
            slot = self._slot(bits)
            free = self._slots[slot] == _EMPTY
            self._slots[slot[free]] = rows[free]
            on = self._slots[slot] != rows  # taken before, or by another row of this call
            rows, state = rows[on], state[on] + _GOLDEN
            bits = mix64(state)

    def add_all(self, column: Ids) -> None:
        """Enter every row of a column of distinct ids."""
        for start in range(0, len(column), _CHUNK):
            part = column[start : start + _CHUNK]
            self.add(part, np.arange(start, start + len(part)))

    def _slot(self, bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        upper = np.uint64(32)  # of the 64 bits: the product of two halves fits
        return (bits >> upper) * np.uint64(len(self._slots)) >> upper
