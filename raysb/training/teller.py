"""Telling the ledger of steps, without a step waiting for the object store."""

import threading
from collections import deque
from typing import Any, NamedTuple

from raysb.scoring.ledger_actor import LedgerClient
from raysb.weights import WeightStore


class Step(NamedTuple):
    """What is told of a step."""

    step: int  # steps done
    num_consumed: int  # rows trained by this generation
    oldest: int  # all pools before this one are trained
    packed: Any = None  # weights, where it publishes
    waited_s: float = 0.0  # that steps have waited for rows, in all


class Teller:
    """Tells the ledger of steps, in a thread of its own: a step does not wait for the object store.

    Of the steps since it last told, only the newest, and before it the newest with weights. The
    ledger may learn of a step late, never early, and of its rows and weights together, so the bound
    on ages holds.

    Args:
        ledger: Who is told.
        generation: Of the worker group.
        pause_s: Least time between two calls, unless the trainer is out of rows.
        asks: Ask, with each publication, whether scorers may still rank by older weights.

    Attributes:
        fallen_back: Whether the weights of every step are to be published, whatever was set.
    """

    def __init__(
        self, ledger: LedgerClient, generation: int, pause_s: float, *, asks: bool = False
    ) -> None:
        self._ledger = ledger
        self._generation = generation
        self._pause_s = pause_s
        self._asks = asks
        self.fallen_back = False
        self._steps: deque[Step] = deque()
        self._idle = False
        self._changed = threading.Condition()
        self._hurry = threading.Event()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def tell(self, step: Step) -> None:
        """Hand over a step. Raises what stopped the thread."""
        if self._error is not None:
            raise self._error
        with self._changed:
            if step.packed is not None:
                self._steps.clear()
            elif self._steps and self._steps[-1].packed is None:
                self._steps.pop()  # not one that publishes, in favour of one that does not
            self._steps.append(step)
            self._idle = False
            self._changed.notify()

    @property
    def ready(self) -> bool:
        """Whether a step would be told of at once, or raise what stopped the thread."""
        return self._idle or self._error is not None

    def hurry(self) -> None:
        """Tell at once what there is to tell: the trainer waits for rows."""
        self._hurry.set()

    def close(self) -> None:
        """Return when all steps are told; raises what stopped the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._hurry.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        store = WeightStore()
        try:
            while (told := self._next()) is not None:
                step, num_consumed, oldest, packed, waited_s = told
                weights = None if packed is None else store.publish(step, packed)
                self._ledger.stepped(
                    self._generation, step, num_consumed, weights, oldest, waited_s
                )
                if self._asks and packed is not None and not self.fallen_back:
                    self.fallen_back = bool(self._ledger.progress()["audits"].get("fallback"))
                if not self._closed:
                    self._hurry.wait(self._pause_s)
                    self._hurry.clear()
        except BaseException as error:
            self._error = error  # the next `tell` raises it, in the worker's own thread

    def _next(self) -> Step | None:
        """Wait for a step; `None` when all are told and no more will come."""
        with self._changed:
            self._idle = not self._steps
            self._changed.wait_for(lambda: self._steps or self._closed)
            return self._steps.popleft() if self._steps else None
