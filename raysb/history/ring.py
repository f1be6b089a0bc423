"""The last R losses of the run in pool order: the population that a loss is ranked against."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.history.state import VERSION, check_state
from raysb.schema import Floats


class LossRing:
    """A window over the last R losses, the same whatever order the pools arrive in.

    `window()` equals `collections.deque(maxlen=R)` fed with the finite losses of all pools recorded
    so far, in the order of their pool numbers; a replay of a pool takes the place of its first
    record. Pools are kept until later ones hold 2R losses, so this stays true as long as replays
    take away no more than R losses altogether (by turning them non-finite).

    Args:
        capacity: R, the losses in the window, at least 1.

    Raises:
        ValueError: `capacity` is below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(
                f"LossRing(capacity={capacity}): must be at least 1; a ring without losses ranks "
                "nothing. Raise selector.history"
            )
        self.capacity = capacity
        self._kept = 2 * capacity  # losses that are never fewer once there were as many
        self._losses: dict[int, Floats] = {}
        self._pools: list[int] = []  # ascending
        self._size = 0
        self._window: Floats | None = None

    def __len__(self) -> int:
        return min(self._size, self.capacity)

    def record(self, pool: int, losses: npt.NDArray[np.floating]) -> None:
        """Enter the losses of a pool, or replace them; those that are not finite stay out.

        Args:
            pool: Sequence number of the pool.
            losses: float32 [n], in the order of the pool's rows.
        """
        self._remove(pool)
        finite = losses[np.isfinite(losses)][-self.capacity :].astype(np.float32)  # a copy
        if len(finite):
            self._enter(pool, finite)
        self._trim()
        self._window = None

    def window(self) -> Floats:
        """Return the last R losses, oldest first; read-only. float32 [<=R]."""
        if self._window is None:
            kept = [np.zeros(0, np.float32), *(self._losses[pool] for pool in self._pools)]
            self._window = np.concatenate(kept)[-self.capacity :].copy()
            self._window.setflags(write=False)
        return self._window

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: numbers and arrays."""
        losses = [self._losses[pool] for pool in self._pools]
        return {
            "version": VERSION,
            "capacity": self.capacity,
            "pools": np.array(self._pools, np.int64),
            "sizes": np.array([len(part) for part in losses], np.int64),
            "losses": np.concatenate([np.zeros(0, np.float32), *losses]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state.

        Raises:
            ValueError: The state is not one of a `LossRing`, or of one with another capacity.
        """
        check_state("LossRing", state, ("capacity", "pools", "sizes", "losses"))
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"LossRing.load_state_dict: the state was saved with capacity={state['capacity']}, "
                f"this ring has capacity={self.capacity}; resume with the selector.history of the "
                "checkpoint. Nothing was loaded"
            )
        self._pools = [int(pool) for pool in state["pools"]]
        parts = np.split(np.array(state["losses"], np.float32), np.cumsum(state["sizes"])[:-1])
        self._losses = {p: part.copy() for p, part in zip(self._pools, parts, strict=False)}
        self._size = len(state["losses"])
        self._window = None

    def metrics(self) -> dict[str, float]:
        """Losses in the window, and those kept besides for replays."""
        return {"num_losses": float(len(self)), "num_kept": float(self._size)}

    def _trim(self) -> None:
        while self._pools and self._size - len(self._losses[self._pools[0]]) >= self._kept:
            self._remove(self._pools[0])

    def _enter(self, pool: int, losses: Floats) -> None:
        self._losses[pool] = losses
        self._size += len(losses)
        insort(self._pools, pool)

    def _remove(self, pool: int) -> None:
        held = self._losses.pop(pool, None)
        if held is not None:
            self._size -= len(held)
            del self._pools[bisect_left(self._pools, pool)]
