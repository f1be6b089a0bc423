"""A run in which nothing moves says who waits for whom, once, and is stopped if that was asked."""

import os
import threading
import time

import pytest

from raysb.stacks import ask_for_stacks, leave_stacks
from raysb.watchdog import stalled, watched

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
        self.heard = threading.Event()

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
