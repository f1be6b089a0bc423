"""The watchdog: nothing hangs in silence.

It looks at the ledger, which every row passes. When for a while nothing was scored, no step was
made and no worker group was started, it says who waits for whom, has every process write where
each of its threads stands, and, if told so, asks the run to stop with a checkpoint.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


@contextmanager
def watched(
    look: Callable[[], Mapping[str, Any]],
    *,
    limit_s: float | None,
    tell: Callable[[str], None],
    stacks: Path,
    stop: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Watch a run while the block runs.

    Args:
        look: Gives the ledger's progress; what it raises is left to others.
        limit_s: Seconds without progress after which it counts as stalled; `None` never.
        tell: Is told of a stall, once until there is progress again.
        stacks: Folder where processes have left files by their number (`stacks.leave_stacks`).
        stop: Asks the run to stop; `None`: it is only told of.
    """
    if limit_s is None:
        yield
        return
    over = threading.Event()
    arguments = (over, look, limit_s, tell, stacks, stop)
    thread = threading.Thread(target=_watch, args=arguments, name="raysb-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _watch(
    over: threading.Event,
    look: Callable[[], Mapping[str, Any]],
    limit_s: float,
    tell: Callable[[str], None],
    stacks: Path,
    stop: Callable[[], None] | None,
) -> None:
    seen: Any = None
    since, told = time.monotonic(), False
    while not over.wait(limit_s / _LOOKS):
        with suppress(Exception):  # of an actor that is gone: whoever needs it sees that itself
            progress = look()
            now = tuple(progress[key] for key in ("generation", "step", "oldest_unscored"))
            if now != seen or not progress["asked"]:  # a start has a limit of its own
                seen, since, told = now, time.monotonic(), False
            elif not told and time.monotonic() - since >= limit_s:
                told = True
                said = f"nothing has moved for {limit_s:g} s: {stalled(progress)}"
                if count := ask_for_stacks(stacks):
                    said += f"; where {count} processes stand is in {stacks}"
                tell(said + ("; the run is asked to stop" if stop else ""))
                if stop is not None:
                    stop()
