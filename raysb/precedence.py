"""Train workers go first where they share a machine with the rest of their run.

A step is computed by one thread, and each pool wakes a dozen others in scorers, readers, ledger and
scheduler. Where there are fewer cores than processes these push it aside. Ray makes it worse: it
starts its workers at niceness 15 and their network threads at 0. So a cluster of our own starts
all at the driver's niceness (`RAY_worker_niceness`, as Ray spells it), and whoever brings rows
steps back by two. On 2 cores that is 1 to 5 % more rows/s, and scores are younger. By five there
are no more, and the trainer waits for rows a tenth of its time, since they come late.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

STEP = 2  # the kernel gives a thread that is two nicer two thirds of the other's share
_THREADS = Path("/proc/self/task")


@cache
def step_back() -> None:
    """Let train workers on this machine go before all threads of this process.

    Niceness is a thread's own on Linux, and passes to those that it starts. A second call does
    nothing; nor does the first where the system knows no niceness.
    """
    if not hasattr(os, "setpriority"):
        return
    threads = [int(entry.name) for entry in _THREADS.iterdir()] if _THREADS.is_dir() else [0]
    for thread in threads:
        with suppress(OSError):  # it has ended meanwhile
            own = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, own + STEP)  # 19 at most, as the kernel has it
