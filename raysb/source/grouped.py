"""Rows that lie in groups (row groups of files, blocks of a store), of which few fit in memory.

Groups are permuted every epoch, and rows are shuffled within windows of several groups.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, Batch, Ids, concatenate, take
from raysb.seeding import generator
from raysb.source.table import check_span

_KEPT_WINDOWS = 2

_Window: TypeAlias = tuple[Batch, npt.NDArray[np.int64]]  # rows as loaded, order of reading


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the rows of one epoch lie."""

    groups: npt.NDArray[np.int64]  # [groups] in the epoch's order
    window: int  # groups of a window
    starts: npt.NDArray[np.int64]  # [windows + 1] first row of each window, then the number of rows

    def windows(self, start: int, stop: int) -> list[int]:
        """Windows that hold the rows [start, stop); any one where there are no rows to hold."""
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        return [w for w in range(first, last) if self.starts[w] < self.starts[w + 1]] or [0]

    def members(self, window: int) -> npt.NDArray[np.int64]:
        """Groups of a window."""
        return self.groups[window * self.window : (window + 1) * self.window]


class GroupedSource:
    """A `Source` over numbered groups of rows that are loaded when they are needed.

    Epoch e: groups in the order `generator(seed, "groups", e).permutation`; each `window`
    consecutive ones are joined and their rows permuted by `generator(seed, "rows", e, window)`.
    The last two windows are kept as loaded, so a reader that goes through an epoch in order loads
    every group once.

    Args:
        group_rows: Rows of each group, 0 or more.
        load: Gives the rows of a group; must give the same each time.
        seed: Seed of the orders.
        window: Groups shuffled together, at least 1.

    Raises:
        DataError: There are no rows.
        ValueError: `window` is below 1.
    """

    def __init__(
        self, group_rows: Sequence[int], load: Callable[[int], Batch], *, seed: int, window: int
    ) -> None:
        if window < 1:
            raise ValueError(f"GroupedSource(window={window}): at least 1 group is needed.")
        self._group_rows = np.asarray(group_rows, np.int64)
        self._num_rows = int(self._group_rows.sum())
        if self._num_rows == 0:
            raise DataError(f"{len(self._group_rows)} groups hold no rows; nothing could be read.")
        self._load = load
        self._seed = seed
        self._window = window
        self._layout: tuple[int | None, _Layout] | None = None
        self._windows: OrderedDict[tuple[int | None, int], _Window] = OrderedDict()

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return self._num_rows

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Rows [start, stop) of the epoch's order as loaded; `None` is the order of the groups."""
        return self.read_some(epoch, start, stop, None)

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Ids of the rows [start, stop) of the epoch's order. int64 [stop - start]"""
        pieces = [rows[ID][order] for rows, order in self._pieces(epoch, start, stop, None)]
        return np.concatenate(pieces).astype(np.int64, copy=False)

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64] | None
    ) -> Batch:
        """The rows at some positions of [start, stop), ascending, as loaded."""
        return concatenate([take(*piece) for piece in self._pieces(epoch, start, stop, rows)])

    def arrangement(self) -> str:
        """Groups of a window, and a digest of the groups' sizes."""
        sizes = hashlib.sha256(self._group_rows.tobytes()).hexdigest()[:16]
        return f"{self._window} of {len(self._group_rows)} groups at once, of sizes {sizes}"

    def _pieces(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64] | None
    ) -> Iterator[_Window]:
        """Windows, and which of their rows are wanted."""
        check_span(start, stop, self._num_rows)
        layout = self._layout_of(epoch)
        for window in layout.windows(start, stop):
            loaded, order = self._window_of(epoch, layout, window)
            first = int(layout.starts[window])
            wanted = slice(max(start - first, 0), max(stop - first, 0))
            if rows is not None:
                here = rows + (start - first)
                yield loaded, order[here[(here >= 0) & (here < len(order))]]
            else:
                yield loaded, order[wanted]

    def _layout_of(self, epoch: int | None) -> _Layout:
        if self._layout is None or self._layout[0] != epoch:
            self._layout = (epoch, self._arrange(epoch))
        return self._layout[1]

    def _arrange(self, epoch: int | None) -> _Layout:
        count = len(self._group_rows)
        # In natural order nothing is shuffled, so one group at a time is enough.
        window = 1 if epoch is None else self._window
        groups = (
            np.arange(count)
            if epoch is None
            else generator(self._seed, "groups", epoch).permutation(count)
        )
        sums = np.concatenate([[0], np.cumsum(self._group_rows[groups])])
        return _Layout(groups=groups, window=window, starts=np.append(sums[:-1:window], sums[-1]))

    def _window_of(self, epoch: int | None, layout: _Layout, window: int) -> _Window:
        if (epoch, window) not in self._windows:
            while len(self._windows) >= _KEPT_WINDOWS:  # before loading: memory is what this bounds
                self._windows.popitem(last=False)
            rows = concatenate([self._load(int(group)) for group in layout.members(window)])
            count = int(layout.starts[window + 1] - layout.starts[window])
            order = (
                np.arange(count)
                if epoch is None
                else generator(self._seed, "rows", epoch, window).permutation(count)
            )
            self._windows[epoch, window] = (rows, order)
        self._windows.move_to_end((epoch, window))
        return self._windows[epoch, window]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layout": None, "_windows": OrderedDict()}
