"""A window over very many losses that is passed on as counts: 21 kB and the newest thousand."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raysb.history.ring import LossRing
from raysb.schema import Floats
from raysb.selection.distribution import CountedWindow
from raysb.selection.histogram import LossHistogram
from raysb.selection.target import RECENT_LOSSES


class CountedRing(LossRing):
    """A `LossRing` that counts: a pool is added and the oldest ones are taken off, nothing more.

    Its window is of whole pools, the fewest that hold R losses, so it has less than a pool more
    than R. What it passes on does not grow with R; the losses themselves stay here, 4 bytes each.
    Nothing is kept besides, so replays that turn losses non-finite leave it by as much smaller.

    Args:
        capacity: R, at least 1.

    Raises:
        ValueError: `capacity` is below 1.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._kept = capacity
        self._counts = LossHistogram()

    def __len__(self) -> int:
        return self._size

    def window(self) -> CountedWindow:  # type: ignore[override]  # a `Window`, as any ring's
        """The counts of the last R losses, and the newest of them one by one."""
        newest: list[Floats] = []
        for pool in reversed(self._pools):
            newest.insert(0, self._losses[pool])
            if sum(map(len, newest)) >= RECENT_LOSSES:
                break
        recent = np.concatenate([np.zeros(0, np.float32), *newest])
        earlier = self._counts.copy()
        earlier.subtract(recent)
        return CountedWindow(earlier, recent)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state, also of a `LossRing` of the same capacity."""
        super().load_state_dict(state)
        self._counts = LossHistogram(state["losses"])
        self._trim()

    def _enter(self, pool: int, losses: Floats) -> None:
        super()._enter(pool, losses)
        self._counts.add(losses)

    def _remove(self, pool: int) -> None:
        if pool in self._losses:
            self._counts.subtract(self._losses[pool])
        super()._remove(pool)
