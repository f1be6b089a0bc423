"""Where the threads of a run's processes stand: written on demand, by each process for itself."""

import faulthandler
import os
import signal
from contextlib import suppress
from pathlib import Path

STACKS = "stacks"  # folder in the run directory
STACK_SIGNAL = signal.SIGUSR1


def leave_stacks(folder: str | os.PathLike[str], role: str) -> None:
    """Let this process write where each of its threads stands when it is asked to.

    Args:
        folder: In the run directory; made if it can be.
        role: Of the process, e.g. `worker`.
    """
    with suppress(OSError, ValueError):  # a folder that this machine does not reach
        os.makedirs(folder, exist_ok=True)
        # stays open as long as the process lives
        file = open(Path(folder) / f"{role}-{os.getpid()}.txt", "w")
        faulthandler.register(STACK_SIGNAL, file=file, all_threads=True)


def ask_for_stacks(folder: Path) -> int:
    """Have the processes of this machine that left a file write their stacks; returns how many."""
    asked = 0
    for file in sorted(folder.glob("*-*.txt")):
        pid = file.stem.rpartition("-")[2]
        if pid.isdigit() and _holds(int(pid), file):
            with suppress(OSError):
                os.kill(int(pid), STACK_SIGNAL)
                asked += 1
    return asked


def _holds(pid: int, file: Path) -> bool:
    """Whether the process has the file open: its number may be another's by now."""
    try:
        return any(
            link.exists() and link.samefile(file) for link in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:
        return False
