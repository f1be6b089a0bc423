"""How many scorers there should be: as many as the trainers are hungry for, within (min, max).

Ray Data scales a pool of actors by their tasks. That says nothing here: a scorer that waits in the
ledger, since the trainers have rows enough, has its tasks too and counts as busy. What counts is

    hungry = share of recent time in which a step waited for rows, on the worker that waited longest
    busy = share of the scorers' recent time in which they held pools that they may score

Where hungry >= HUNGRY and busy >= BUSY, rows are short and the scorers are why (not the readers,
nor the bound on ages): n scorers become n / (1 - hungry), which would still it if rows came in
proportion, and at most twice as many. Where hungry < FED for long, there will be as
many as are busy, with some time to spare.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

HUNGRY, FED = 0.10, 0.02
BUSY = 0.75
MOST_BUSY = 0.80  # share of their time that fewer scorers would hold pools
GROW_AFTER_S, SHRINK_AFTER_S = 5.0, 20.0
PAUSE_S = 10.0  # a step that takes longer, without waiting for rows, is taken for an evaluation


class _Sample(NamedTuple):
    """Sums up to a moment."""

    now: float
    waited: float  # seconds that steps have waited for rows
    held: float  # scorer-seconds with a pool in hand


@dataclass(kw_only=True)
class Hunger:
    """Watches trainers and scorers of a generation; says how many scorers there should be.

    Args:
        clock: Seconds.
    """

    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.start(1, 1)

    def start(self, least: int, most: int) -> None:
        """A generation begins: nothing is known of its hunger.

        Args:
            least: Scorers that there are at first and always.
            most: Scorers that there may be.
        """
        self._least, self._most = least, most
        self._target = least
        self._running, self._seen = 0, (0, 0)
        self._waited, self._stepped_at = 0.0, math.nan
        self._granted, self._held, self._since = 0, 0.0, self.clock()
        self._samples: deque[_Sample] = deque()

    def stepped(self, waited_s: float) -> None:
        """The trainers made a step; so long have all steps waited for rows."""
        now = self.clock()
        if now - self._stepped_at - (waited_s - self._waited) > PAUSE_S:
            self._samples.clear()  # an evaluation: nobody was hungry, and it says nothing
        self._waited, self._stepped_at = waited_s, now

    def holds(self, num_pools: int) -> None:
        """So many pools are granted and not scored now."""
        self._add_up(self.clock())
        self._granted = num_pools

    def _add_up(self, now: float) -> None:
        self._held += min(self._granted, self._running) * (now - self._since)
        self._since = now

    def wanted(self, num_running: int, num_starting: int, *, starving: bool) -> int:
        """How many scorers there should be.

        Args:
            num_running: Scorers that are up.
            num_starting: Further ones that are on their way; until they are up, nothing is decided.
            starving: Whether fewer rows are there than a step takes.
        """
        now = self.clock()
        self._add_up(now)
        if num_running != self._running or num_starting or math.isnan(self._stepped_at):
            self._running = num_running
            lowest, highest = self._seen
            self._seen = (min(lowest or num_running, num_running), max(highest, num_running))
            self._samples.clear()
            return self._target
        open_s = now - self._stepped_at if starving else 0.0
        self._samples.append(_Sample(now, self._waited + open_s, self._held))
        while now - self._samples[0].now > SHRINK_AFTER_S:
            self._samples.popleft()
        self._decide(now)
        return self._target

    def _decide(self, now: float) -> None:
        running = max(self._running, 1)
        if (recent := self._over(GROW_AFTER_S, now)) is None:
            return
        hungry, busy = recent
        if hungry >= HUNGRY and busy >= BUSY:
            enough = math.ceil(running / max(1 - hungry, 0.5))
            self._target = min(max(enough, running + 1), self._most)
            return
        self._target = max(min(self._target, running), self._least)
        long = self._over(0.9 * SHRINK_AFTER_S, now)
        if long is None or now - self._stepped_at > PAUSE_S:
            return
        hungry, busy = long
        enough = math.ceil(running * busy / MOST_BUSY)
        if hungry < FED and enough < running:
            self._target = max(min(self._target, enough), self._least)

    def _over(self, seconds: float, now: float) -> tuple[float, float] | None:
        """(hungry, busy) over the last seconds; `None` while less is known."""
        before = [sample for sample in self._samples if now - sample.now >= seconds]
        if not before:
            return None
        first, last = before[-1], self._samples[-1]
        gone = last.now - first.now
        hungry = min((last.waited - first.waited) / gone, 1.0)
        return hungry, (last.held - first.held) / (gone * max(self._running, 1))

    def metrics(self) -> dict[str, Any]:
        """How many scorers there are, and the fewest and most that there were."""
        if not self._running:
            return {}
        least, most = self._seen
        return {"running": self._running, "least": least, "most": most}
