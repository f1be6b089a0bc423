"""Ctrl-C and SIGTERM: the first asks a run to stop at its next step, the second ends it at once.

The signal's handler itself writes nothing and calls nothing, since it may run in the middle of
any line of the main thread; a thread tells whoever must know. Worker 0 learns of it from the board,
the other workers from worker 0's numbers before a step.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPING = "stopping"  # the phase that a watcher is told of when the first signal arrives
INTERRUPTED = "interrupted"  # what the last line of metrics says under `stopped_by`


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has: its checkpoint, weights and metrics are written.

    Args:
        metrics: The last line of metrics.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        super().__init__(INTERRUPTED)
        self.metrics = dict(metrics)


@contextmanager
def stoppable(tell: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """While the block runs, the first signal only asks to stop; any further one raises.

    A signal that the process ignores, as under `nohup` or in a background job, stays ignored.
    Outside the main thread, where Python hands out no signals, nothing changes.

    Args:
        tell: Called once, in a thread of its own, when a stop is asked for.

    Yields:
        Whether a stop has been asked for; costs nothing to ask.

    Raises:
        KeyboardInterrupt: At the second signal.
    """
    ears = _Ears(tell)

    def handle(number: int, frame: Any) -> None:
        if ears.heard > 1:
            raise KeyboardInterrupt

    with _handling(handle, SIGNALS), ears.open():
        yield lambda: ears.heard > 0


class _Ears:
    """Counts signals as they come, in a thread of its own.

    Python runs a handler only when the main thread is next in Python, which waits up to a second in
    a call of Ray, and once for all signals that came meanwhile: two quick ones would be one.

    Args:
        tell: Called at the first.

    Attributes:
        heard: Signals so far.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self.heard = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listen while the block runs."""
        if not _hears_signals():
            yield
            return
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writer.close()

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while numbers := reader.recv(64):
                for number in filter(SIGNALS.__contains__, numbers):
                    self._hear(number)

    def _hear(self, number: int) -> None:
        self.heard += 1
        if self.heard == 1:  # in a thread of its own too: the second is heard whatever it does
            threading.Thread(target=self._tell, daemon=True).start()
        elif self.heard == 2 and (main := threading.main_thread().ident) is not None:
            signal.pthread_kill(main, number)  # the handler may have run before this was counted


@contextmanager
def terminable() -> Iterator[None]:
    """While the block runs, SIGTERM raises KeyboardInterrupt as Ctrl-C does: it is cleaned up."""

    def handle(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with _handling(handle, (signal.SIGTERM,)):
        yield


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put our handlers, or the user's, back in place after a block that installs its own."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # not the system's default: whoever replaced that one meant to clean up
            if callable(handler) and _hears_signals():
                signal.signal(number, handler)


def stop_name(stream: str) -> str:
    """Name of the board's value that asks the workers of a stream to stop."""
    return f"stop/{stream}"


def listen(board: Any, stream: str) -> Callable[[], bool]:
    """Whether a stop was put on the board, for a worker to ask before each step.

    A thread waits for it, so that asking costs no call; a worker that starts later hears it too.

    Args:
        board: The run's `Board`.
        stream: Name of the stream.
    """
    asked = threading.Event()

    def wait() -> None:
        try:
            board.get(stop_name(stream), at_least=1)
        except Exception:
            return  # the run is over, and its board with it
        asked.set()

    threading.Thread(target=wait, name="raysb-stop", daemon=True).start()
    return asked.is_set


@contextmanager
def _handling(handle: Callable[[int, Any], None], numbers: tuple[int, ...]) -> Iterator[None]:
    numbers = numbers if _hears_signals() else ()
    before = {n: signal.getsignal(n) for n in numbers}
    caught = [n for n, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in caught:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, before[number])


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()
