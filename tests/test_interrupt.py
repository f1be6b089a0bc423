"""What SIGINT and SIGTERM do to the process that hears them."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from raysb.interrupt import INTERRUPTED, SIGNALS, Interrupted, listen, stoppable, terminable

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    """Every test leaves the handlers as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    fd = signal.set_wakeup_fd(-1)
    assert (after, fd) == (before, -1)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def wait_until(true: object) -> None:
    end = time.monotonic() + LIMIT_S
    while not true() and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.005)
    assert true()  # type: ignore[operator]


def linger() -> None:
    """Not in one call: a signal just before its first instruction would wait for its end."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_only_asks_and_whoever_must_know_is_told_once(number) -> None:
    told = []
    with stoppable(lambda: told.append(1)) as asked:
        assert not asked()
        send(number)
        wait_until(asked)
        wait_until(lambda: told)
    assert told == [1]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_raises(number) -> None:
    def twice() -> None:
        with stoppable(lambda: None) as asked:
            send(signal.SIGINT)
            wait_until(asked)
            send(number)
            linger()

    with pytest.raises(KeyboardInterrupt):
        twice()


def test_two_signals_within_one_long_call_are_two() -> None:
    """Python runs the handler once for both: a quick double Ctrl-C on Ray counted as one."""

    def while_busy() -> None:
        for _ in range(2):
            time.sleep(0.1)
            send(signal.SIGINT)

    def busy() -> None:
        with stoppable(lambda: None):
            thread = threading.Thread(target=while_busy)
            thread.start()
            while thread.is_alive():
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)  # no signal ends it
            time.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        busy()


def test_a_teller_that_hangs_does_not_keep_the_second_signal_from_being_heard() -> None:
    stuck = threading.Event()

    def twice() -> None:
        with stoppable(stuck.wait) as asked:
            send(signal.SIGINT)
            wait_until(asked)
            send(signal.SIGINT)
            linger()

    with pytest.raises(KeyboardInterrupt):
        twice()
    stuck.set()


def test_nothing_is_told_where_no_signal_comes() -> None:
    told = []
    with stoppable(lambda: told.append(1)) as asked:
        pass
    time.sleep(0.05)
    assert (told, asked()) == ([], False)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(lambda: None) as asked:
            send(signal.SIGINT)
            send(signal.SIGINT)
            time.sleep(0.05)
            assert not asked()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    seen = []

    def elsewhere() -> None:
        with stoppable(lambda: None) as asked, terminable():
            seen.append((asked(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]


def test_sigterm_is_cleaned_up_after_like_ctrl_c() -> None:
    def ended() -> None:
        with terminable():
            send(signal.SIGTERM)
            linger()

    with pytest.raises(KeyboardInterrupt):
        ended()


def test_an_interrupted_run_is_a_keyboard_interrupt_with_its_metrics() -> None:
    error = Interrupted({"step": 3})
    assert isinstance(error, KeyboardInterrupt)
    assert not isinstance(error, Exception)  # so that `except Exception` does not go on
    assert (str(error), error.metrics) == (INTERRUPTED, {"step": 3})


class OneValue:
    """A board of one value, in this process."""

    def __init__(self) -> None:
        self.there = threading.Event()

    def get(self, name: str, at_least: int) -> tuple[int, bool]:
        assert (name, at_least) == ("stop/train", 1)
        self.there.wait()
        return 1, True


def test_a_worker_hears_of_the_stop_without_a_call_of_its_own() -> None:
    board = OneValue()
    asked = listen(board, "train")
    assert not asked()
    board.there.set()
    wait_until(asked)
