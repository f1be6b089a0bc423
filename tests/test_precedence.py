"""Niceness of a process that steps back, of all its threads, and of those that they start."""

import json
import os
import subprocess
import sys

import pytest

from raysb import precedence
from raysb.precedence import STEP, step_back

LEVELS = """
import os, threading, time
from raysb.precedence import step_back

own = lambda thread: os.getpriority(os.PRIO_PROCESS, thread)
levels = lambda: [own(int(thread)) for thread in os.listdir("/proc/self/task")]
started = threading.Event()
threading.Thread(target=started.wait, daemon=True).start()
os.setpriority(os.PRIO_PROCESS, 0, {level})  # of this thread alone
before = sorted(levels())
step_back()
once = sorted(levels())
step_back()
twice = sorted(levels())
threading.Thread(target=started.wait, daemon=True).start()
print([before, once, twice, sorted(levels())])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a thread's own on Linux alone")
@pytest.mark.parametrize("level", [7, 17])
def test_every_thread_steps_back_from_where_it_was_and_once(level: int) -> None:
    base = os.getpriority(os.PRIO_PROCESS, 0)
    level = min(base + level, 19)
    done = subprocess.run(
        [sys.executable, "-c", LEVELS.format(level=level)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, once, twice, later = json.loads(done.stdout)
    back = [min(base + STEP, 19), min(level + STEP, 19)]
    assert before == [base, level]
    assert once == twice == back
    assert later == sorted([*back, back[1]])  # from the thread that starts it


HERE = """
import os, sys
from pathlib import Path
from raysb import precedence

precedence._THREADS = Path(sys.argv[1])
before = os.getpriority(os.PRIO_PROCESS, 0)
precedence.step_back()
print(os.getpriority(os.PRIO_PROCESS, 0) - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a thread's own on Linux alone")
@pytest.mark.parametrize("listed", [(), ("0", "4194305")])
def test_a_thread_that_ended_or_a_system_that_lists_none_stops_nobody(listed, tmp_path) -> None:
    """0 is the thread itself, 4194305 more than the kernel ever gives."""
    folder = tmp_path / "task"
    for name in listed:
        (folder / name).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", HERE, str(folder)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == min(STEP, 19 - os.getpriority(os.PRIO_PROCESS, 0))


def test_a_system_without_niceness_is_left_as_it_is(monkeypatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(precedence, "_THREADS", asked)  # would fail if it were looked at
    monkeypatch.delattr(os, "setpriority")
    step_back.__wrapped__()
