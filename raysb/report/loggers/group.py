"""All loggers of a run, each in a thread of its own: none can slow, hang or end the run."""

import contextlib
import math
import queue
import threading
import warnings
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from raysb.report.loggers.base import Logger

FINISH_S = 30.0  # what a logger may take to send what is left, once the run is over
MAX_WAITING = 3_600  # lines that a slow logger may lag behind: an hour

_OPENS_A_LINE = ("step", "kind")  # not metrics


class Loggers:
    """Passes the lines of a run on.

    Args:
        loggers: By the name that warnings call them, see `make_loggers`.
        config: Every setting of the run by dotted key.
    """

    def __init__(
        self, loggers: Mapping[str, Logger] | None = None, config: Mapping[str, Any] | None = None
    ) -> None:
        self._config = dict(config or {})
        self._given = dict(loggers or {})
        self._running: list[_Thread] = []

    def start(self, directory: Path) -> None:
        """The run begins; its directory exists."""
        self._running = [_Thread(name, logger) for name, logger in self._given.items()]
        for each in self._running:
            each.call(each.logger.start, self._config, directory.absolute())

    def log(self, line: Mapping[str, Any]) -> None:
        """Pass on the finite numbers of a line of metrics; takes microseconds."""
        metrics, step = numbers(line), int(line.get("step", 0))
        for each in self._running:
            each.call(each.logger.log, metrics, step)
        self._drop_failed()

    def finish(self, status: str) -> None:
        """The run is over; waits for the loggers, but not for ever."""
        for each in self._running:
            each.call(each.logger.finish, status, last=True)
        for each in self._running:
            each.join()
        self._drop_failed()
        self._running = []

    def _drop_failed(self) -> None:
        """Warn once of each logger that failed; from the caller's thread, where warnings show."""
        failed = [each for each in self._running if each.failure]
        self._running = [each for each in self._running if not each.failure]
        for each in failed:
            warnings.warn(
                f"the logger {each.name!r} failed and gets nothing more of this run, which goes "
                f"on; metrics.jsonl has everything: {each.failure}",
                RuntimeWarning,
                stacklevel=3,
            )


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line by key, without what says which line it is."""
    return {
        key: float(value)
        for key, value in line.items()
        if key not in _OPENS_A_LINE
        and isinstance(value, Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


class _Thread:
    """One logger and the thread that calls it, in order, until it fails or the run is over."""

    def __init__(self, name: str, logger: Logger) -> None:
        self.name = name
        self.logger = logger
        self.failure = ""
        self._calls: queue.Queue[tuple[Callable[..., None], tuple[Any, ...], bool]] = queue.Queue(
            MAX_WAITING
        )
        # a daemon, so that one that hangs does not keep the process alive
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def call(self, method: Callable[..., None], *args: Any, last: bool = False) -> None:
        """Have a method called, after those before it; never waits."""
        with contextlib.suppress(queue.Full):
            self._calls.put_nowait((method, args, last))
            return
        self.failure = self.failure or f"it lags {MAX_WAITING} lines behind"

    def join(self) -> None:
        """Wait until the last call has returned."""
        self._thread.join(FINISH_S)
        if self._thread.is_alive() and not self.failure:
            self.failure = f"it did not finish within {FINISH_S:.0f} s, its last lines are missing"

    def _work(self) -> None:
        last = False
        while not last and not self.failure:
            method, args, last = self._calls.get()
            try:
                method(*args)
            except Exception as error:
                self.failure = f"{type(error).__name__}: {error}"
