"""A run in which nothing moves says who waits for whom, once, and is stopped if that was asked.

One that does not stop when it is asked to is ended, and a ledger that hangs silences nobody.
"""

import os
import threading
import time
from pathlib import Path

import pytest

from raysb.stacks import ask_for_stacks, leave_stacks
from raysb.training.checkpoints import Entry
from raysb.watchdog import ended, stalled, watched

MOVING = {
    "generation": 1,
    "step": 7,
    "oldest_unscored": 12,
    "asked": True,
    "reserved": {},
    "waiting_rows": 3,
    "global_batch": 64,
    "asleep": {"admit": [], "grant": []},
}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"waiting_rows": 64}, "train workers make no step"),
        ({"reserved": {12: 40, 13: 40}}, "wait for the scorers, which hold pools 12, 13"),
        ({}, "scorers wait for the readers: nobody asks for pool 12"),
        ({"asleep": {"admit": [], "grant": [12]}}, "pool 12 waits for leave"),
        ({"asleep": {"admit": [12], "grant": []}}, "pool 12 waits for leave"),
    ],
)
def test_the_stage_that_others_wait_for_is_named(seen, said) -> None:
    text = stalled(MOVING | seen)
    assert said in text
    assert "step 7" in text


class Looker:
    """Progress that a test moves, and what was told of it."""

    def __init__(self) -> None:
        self.progress, self.told, self.stops = dict(MOVING), [], 0
        self.heard, self.gone, self.ends = threading.Event(), threading.Event(), []

    def end(self, why) -> None:
        self.ends.append(why)
        self.gone.set()

    def look(self):
        return self.progress

    def tell(self, text) -> None:
        self.told.append(text)
        self.heard.set()

    def stop(self) -> None:
        self.stops += 1


def test_a_stall_is_told_once_and_again_after_something_moved(tmp_path) -> None:
    looker = Looker()
    with watched(looker.look, limit_s=0.2, tell=looker.tell, stacks=tmp_path, stop=looker.stop):
        assert looker.heard.wait(10)
        time.sleep(0.5)
        assert (len(looker.told), looker.stops) == (1, 1)
        assert "nothing has moved for 0.2 s" in looker.told[0]
        assert "asked to stop" in looker.told[0]
        looker.heard.clear()
        looker.progress = MOVING | {"step": 8}
        assert looker.heard.wait(10)
        assert "step 8" in looker.told[1]


@pytest.mark.parametrize("what", ["step", "generation", "oldest_unscored"])
def test_what_moves_is_not_told_of(tmp_path, what) -> None:
    looker = Looker()
    with watched(looker.look, limit_s=1.0, tell=looker.tell, stacks=tmp_path):
        for number in range(15):
            looker.progress = MOVING | {what: number}
            time.sleep(0.1)
    assert looker.told == []


def test_a_start_is_no_stall(tmp_path) -> None:
    looker = Looker()
    looker.progress = MOVING | {"asked": False}
    with watched(looker.look, limit_s=0.1, tell=looker.tell, stacks=tmp_path):
        time.sleep(0.5)
        assert looker.told == []
        looker.progress = MOVING
        assert looker.heard.wait(10)


def test_a_ledger_that_is_gone_ends_no_watch(tmp_path) -> None:
    looker = Looker()
    looker.progress = None  # whoever looks raises
    with watched(looker.look, limit_s=0.1, tell=looker.tell, stacks=tmp_path):
        time.sleep(0.3)
        looker.progress = MOVING
        assert looker.heard.wait(10)


class Sleepy(Looker):
    """A ledger that does not answer until a test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.awake, self.looks = threading.Event(), 0

    def look(self):
        self.looks += 1
        assert self.awake.wait(60)
        return self.progress


def test_a_ledger_that_hangs_is_told_of_and_asked_no_second_time(tmp_path) -> None:
    sleepy = Sleepy()
    with watched(sleepy.look, limit_s=0.3, tell=sleepy.tell, stacks=tmp_path):
        assert sleepy.heard.wait(10)
        time.sleep(0.5)
        assert len(sleepy.told) == 1
        assert "nothing has moved for 0.3 s: the ledger has not answered for 0." in sleepy.told[0]
        assert sleepy.looks == 1, "each look that hangs would hold a thread"
        sleepy.heard.clear()
        sleepy.awake.set()  # it answers again, and nothing moves
        assert sleepy.heard.wait(10)
        assert "nobody asks for pool 12" in sleepy.told[1]


def test_a_ledger_that_is_gone_and_that_nobody_misses_is_told_of(tmp_path) -> None:
    looker = Looker()
    looker.look = lambda: [][0]
    with watched(looker.look, limit_s=0.2, tell=looker.tell, stacks=tmp_path):
        assert looker.heard.wait(10)
    assert "the ledger cannot be asked (IndexError)" in looker.told[0]


@pytest.mark.parametrize("kind", [Looker, Sleepy])
def test_a_run_that_hears_no_stop_is_ended_once_after_the_same_time_again(tmp_path, kind) -> None:
    looker, begin = kind(), time.monotonic()
    with watched(
        *(looker.look,),
        **{"limit_s": 0.5, "tell": looker.tell, "stacks": tmp_path},
        **{"stop": looker.stop, "end": looker.end},
    ):
        assert looker.gone.wait(10)
        assert time.monotonic() - begin >= 1.0
        time.sleep(0.7)
    assert (len(looker.ends), len(looker.told), looker.stops) == (1, 1, 1)
    assert "nor has the run stopped when it was asked to: " in looker.ends[0]
    who = "the ledger has not answered" if kind is Sleepy else "nobody asks for pool 12"
    assert who in looker.ends[0]


@pytest.mark.parametrize("moving", [True, False])
def test_a_run_that_moves_again_or_is_only_reported_of_is_not_ended(tmp_path, moving) -> None:
    looker = Looker()
    stop = {"stop": looker.stop} if moving else {}
    with watched(
        looker.look, limit_s=1.0, tell=looker.tell, stacks=tmp_path, end=looker.end, **stop
    ):
        assert looker.heard.wait(10)
        for number in range(15):
            looker.progress = MOVING | {"step": 100 + number * moving}
            time.sleep(0.1)
    assert looker.ends == []


def test_whoever_is_told_may_fail_and_the_watch_goes_on(tmp_path) -> None:
    looker = Looker()

    def tell(text) -> None:
        looker.tell(text)
        raise OSError("the terminal is closed")

    with watched(
        *(looker.look,),
        **{"limit_s": 0.2, "tell": tell, "stacks": tmp_path},
        **{"stop": looker.stop, "end": looker.end},
    ):
        assert looker.gone.wait(10)
    assert (len(looker.told), looker.stops) == (1, 1)


def test_a_run_that_was_ended_says_from_where_it_goes_on() -> None:
    said = ended("nothing has moved", Path("runs/a"), Entry(40, "checkpoint_000000040"))
    assert "that of step 40; " in said
    assert "`raysb train --resume runs/a` goes on from it" in said
    assert "No checkpoint was written" in ended("nothing has moved", Path("runs/a"), None)
    assert "--resume" not in ended("nothing has moved", Path("runs/a"), None)


def test_a_process_writes_where_its_threads_stand(tmp_path) -> None:
    leave_stacks(tmp_path, "ray-worker")
    (tmp_path / "scorer-1.txt").touch()  # another process's number: it gets no signal
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="waits here")
    thread.start()
    try:
        asked = ask_for_stacks(tmp_path)
        written = (tmp_path / f"ray-worker-{os.getpid()}.txt").read_text()
    finally:
        over.set()
        thread.join()
    assert asked == 1
    assert "test_a_process_writes_where_its_threads_stand" in written
    assert "threading.py" in written
