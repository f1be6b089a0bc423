"""Train workers go first where they share a machine with the rest of their run.

A step is computed by one thread, and each pool wakes a dozen others in scorers, readers, ledger and
scheduler. Where there are fewer cores than processes these push it aside for up to a fifth of its
time, though all of them together need less than what is left. Ray makes it worse: it starts its
workers at niceness 15 and their network threads at 0. So a cluster of our own starts them all at 0
(`RAY_worker_niceness`, as Ray spells it), and whoever brings rows steps back by five.

Measured on 2 cores, five beside 0, 2, 3, 10 and 15: more rows/s for small nets and for large ones.
At 15 the ones who bring rows wait so long that a small net waits for them.
"""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

STEP = 5  # the kernel gives a thread that is five nicer a third of the other's share
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
