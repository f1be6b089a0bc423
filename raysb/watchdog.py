"""The watchdog: nothing hangs in silence.

It looks at the ledger, which every row passes. When for a while nothing was scored, no step was
made and no worker group was started, it says who waits for whom, has every process write where
each of its threads stands, and, if told so, asks the run to stop with a checkpoint. Who hangs hears
no such question: when the same time has passed once more, the run is ended from outside. A ledger
that hangs itself moves nothing either, so nobody waits for its answer.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysb.stacks import ask_for_stacks

_LOOKS = 20  # in the time after which a run counts as stalled


def stalled(progress: Mapping[str, Any]) -> str:
    """Which stage waits for which, by what the ledger knows.

    Args:
        progress: Of `Ledger.progress`; from the actor with `asleep`, who waits in it.
    """
    step, pool = progress["step"], progress["oldest_unscored"]
    granted = sorted(progress["reserved"])
    waiting, batch = progress["waiting_rows"], progress["global_batch"]
    queues = f"step {step}, {waiting} selected rows wait, pool {pool} is the next to be scored"
    if waiting >= batch:
        return (
            f"the train workers make no step though a batch of {batch} rows is there: a worker "
            f"hangs in its forward, backward or all-reduce, or the others wait for one ({queues})"
        )
    if granted:
        return (
            f"the train workers wait for the scorers, which hold pools {_some(granted)} and report "
            f"none: a forward pass or a call of the history hangs ({queues})"
        )
    asleep = progress.get("asleep", {})
    if pool in asleep.get("grant", ()) or pool in asleep.get("admit", ()):
        return f"pool {pool} waits for leave of the ledger though it is the oldest ({queues})"
    return (
        f"the scorers wait for the readers: nobody asks for pool {pool}, so reading or decoding "
        f"hangs, or the rows lie in Ray's object store, which may be full ({queues})"
    )


def _some(pools: list[int]) -> str:
    return ", ".join(map(str, pools[:5])) + (" ..." if len(pools) > 5 else "")


def ended(why: str, directory: Path, newest: Any) -> str:
    """What to say of a run that was ended from outside.

    Args:
        why: It was.
        directory: Of the run.
        newest: Its newest checkpoint, an `Entry`; `None`: there is none.
    """
    if newest is None:
        rest = "No checkpoint was written yet: mend what hangs and start it anew"
    else:
        rest = (
            f"The newest checkpoint is that of step {newest.step}; mend what hangs, and "
            f"`raysb train --resume {directory}` goes on from it"
        )
    return f"{why}; so the run was ended from outside. {rest}"


@contextmanager
def watched(
    look: Callable[[], Mapping[str, Any]],
    *,
    limit_s: float | None,
    tell: Callable[[str], None],
    stacks: Path,
    stop: Callable[[], None] | None = None,
    end: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Watch a run while the block runs.

    Args:
        look: Gives the ledger's progress. It may never return, or raise: then nothing has moved.
        limit_s: Seconds without progress after which it counts as stalled; `None` never.
        tell: Is told of a stall, once until there is progress again.
        stacks: Folder where processes have left files by their number (`stacks.leave_stacks`).
        stop: Asks the run to stop; `None`: it is only told of.
        end: Ends the run from outside, told why; called when nothing has moved for another
            `limit_s` after `stop`. `None`: never.
    """
    if limit_s is None:
        yield
        return
    watch = _Watch(_Looks(look), limit_s, tell, stacks, stop, end)
    over = threading.Event()
    thread = threading.Thread(target=watch.until, args=(over,), name="raysb-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


class _Looks:
    """Asks for progress in a thread, of which there is one at most: the answer may never come.

    Args:
        look: Gives the ledger's progress.

    Attributes:
        why_not: What is known of the ledger where the last look brought nothing.
    """

    def __init__(self, look: Callable[[], Mapping[str, Any]]) -> None:
        self._look = look
        self._thread: threading.Thread | None = None
        self._answer: Mapping[str, Any] | BaseException | None = None
        self._asked = 0.0
        self.why_not = ""

    def take(self, wait_s: float) -> Mapping[str, Any] | None:
        """The progress, or `None` where none comes in time."""
        if self._thread is None:
            self._asked, self._answer = time.monotonic(), None
            self._thread = threading.Thread(target=self._ask, name="raysb-look", daemon=True)
            self._thread.start()
        self._thread.join(wait_s)
        if self._thread.is_alive():
            for_s = time.monotonic() - self._asked
            self.why_not = (
                f"the ledger has not answered for {for_s:.3g} s: it hangs, or its machine"
            )
            return None
        self._thread = None
        if isinstance(self._answer, BaseException):
            self.why_not = f"the ledger cannot be asked ({type(self._answer).__name__})"
            return None
        return self._answer

    def _ask(self) -> None:
        try:
            self._answer = self._look()
        except BaseException as error:  # Ray may end its threads by other kinds when it goes
            self._answer = error


@dataclass
class _Watch:
    """What the thread of `watched` knows; its arguments are those."""

    looks: _Looks
    limit_s: float
    tell: Callable[[str], None]
    stacks: Path
    stop: Callable[[], None] | None
    end: Callable[[str], None] | None
    seen: Any = None
    since: float = 0.0
    told: bool = False

    def until(self, over: threading.Event) -> None:
        """Watch until the block is over, or the run was ended from here."""
        self._moved(None)
        while not over.wait(self.limit_s / _LOOKS):
            progress = self.looks.take(self.limit_s / _LOOKS)
            with suppress(Exception):  # of who is told: the watch goes on
                if self._moves(progress) or over.is_set():
                    continue
                idle = time.monotonic() - self.since
                if not self.told and idle >= self.limit_s:
                    self._stalled(progress)
                elif self.stop and self.end and idle >= 2 * self.limit_s:
                    self.end(
                        f"nothing has moved for {idle:.3g} s, nor has the run stopped when it was "
                        f"asked to: {self._who(progress)}"
                    )
                    return

    def _moves(self, progress: Mapping[str, Any] | None) -> bool:
        if progress is None:
            return False
        now = tuple(progress[key] for key in ("generation", "step", "oldest_unscored"))
        if now == self.seen and progress["asked"]:  # a start has a limit of its own
            return False
        self._moved(now)
        return True

    def _moved(self, now: Any) -> None:
        self.seen, self.since, self.told = now, time.monotonic(), False

    def _who(self, progress: Mapping[str, Any] | None) -> str:
        return self.looks.why_not if progress is None else stalled(progress)

    def _stalled(self, progress: Mapping[str, Any] | None) -> None:
        self.told = True
        said = f"nothing has moved for {self.limit_s:g} s: {self._who(progress)}"
        if count := ask_for_stacks(self.stacks):
            said += f"; where {count} processes stand is in {self.stacks}"
        try:
            self.tell(said + ("; the run is asked to stop" if self.stop else ""))
        finally:  # a terminal may be closed
            if self.stop is not None:
                self.stop()
