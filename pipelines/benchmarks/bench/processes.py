"""CPU seconds of the processes of a Ray cluster, by what they do."""

import os
from collections import defaultdict
from pathlib import Path

ROLES = {  # parts of a process's title, the first that fits
    "PoolScorer": "scorer",
    "ReadingScorer": "scorer",
    "PoolReader": "readers",
    "SplitCoordinator": "coordinator",
    "LedgerService": "ledger",
    "HistoryShard": "shard",
    "BoardState": "board",
    "TrainWorker": "trainer",
    "TrainController": "controller",
    "Repartition": "numbers",
    "ray::": "other workers",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
_TICKS = os.sysconf("SC_CLK_TCK")

Usage = dict[int, tuple[str, float]]  # by process: what it does, CPU seconds so far


def usage() -> Usage:
    """CPU time of all processes of the cluster; called by one of its workers.

    A worker's parent is the raylet, and the raylet's is the driver.
    """
    raylet = os.getppid()
    driver = _parent(raylet)
    found: Usage = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (one := _look(int(entry.name), raylet, driver)):
            found[int(entry.name)] = one
    return found


def spent(before: Usage, after: Usage) -> dict[str, float]:
    """CPU seconds between two looks, by role. Processes that ended in between are not in it."""
    sums: defaultdict[str, float] = defaultdict(float)
    for pid, (role, seconds) in after.items():
        sums[role] += seconds - before.get(pid, (role, 0.0))[1]
    return dict(sums)


def _look(pid: int, raylet: int, driver: int) -> tuple[str, float] | None:
    try:
        fields = _stat(pid)
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:  # it has ended
        return None
    seconds = (int(fields[11]) + int(fields[12])) / _TICKS
    if pid == driver:
        return "driver", seconds
    if int(fields[1]) not in (raylet, driver):
        return None
    return _role(title), seconds


def _role(title: str) -> str:
    return next((role for part, role in ROLES.items() if part in title), "other")


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on; the second may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
