"""Rows that are drawn in place at the bottom of a terminal, under everything else that is said.

Between two drawings the cursor rests on an empty row above the drawn ones. So what a library
writes past Python's own streams lands there and is never wiped out, as it would be by a drawing
that goes up over its own rows; a terminal that becomes narrower breaks rows below the cursor only,
where the next drawing replaces them; and a process that is killed leaves a cursor that is seen.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

EVERY_S = 0.25
_UP, _CLEAR_ROW, _CLEAR_BELOW = "\x1b[{}A", "\x1b[K", "\x1b[J"
# From the second row on: to clear a whole screen is to some terminals to keep it in the scrollback.
_WIPE = "\r" + _CLEAR_ROW + "\n" + _CLEAR_BELOW + _UP.format(1)


def can_draw(stream: Any, environ: Mapping[str, str] | None = None) -> bool:
    """Whether to draw on a stream: a terminal that moves its cursor, and nobody who objects.

    NO_COLOR, TERM=dumb and CI are how people and machines ask for plain lines.
    """
    environ = os.environ if environ is None else environ
    plain = environ.get("NO_COLOR") or environ.get("CI", "") not in ("", "0", "false")
    moves = environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    return bool(stream.isatty() and moves and not plain)


class Live:
    """Draws rows on a terminal, again and again, until it is stopped.

    While it draws, `sys.stdout` and `sys.stderr` put whole lines above the rows where they lead to
    a terminal.

    Args:
        rows: `(width) -> rows`, each of at most that many columns.
        stream: The terminal.

    Attributes:
        lock: Held by whoever writes to the terminal.
    """

    def __init__(self, rows: Callable[[int], Sequence[Text]], stream: TextIO) -> None:
        self._rows = rows
        self._stream = stream
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self.lock = threading.RLock()
        self._drawn = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="raysb-live", daemon=True)
        self._replaced: dict[str, tuple[TextIO, TextIO]] = {}

    def start(self) -> None:
        """Draw, from now on."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                self._replaced[name] = (stream, Above(self, stream))  # type: ignore[assignment]
                setattr(sys, name, self._replaced[name][1])
        self._thread.start()

    def stop(self) -> None:
        """Wipe the rows out and give the streams back; stopping twice is fine."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join(timeout=2 * EVERY_S)
        with self.lock:
            self._wipe()
            for name, (stream, above) in self._replaced.items():
                above.close()
                if getattr(sys, name) is above:
                    setattr(sys, name, stream)

    def draw(self) -> None:
        """Draw the rows, and return to the empty row above them."""
        with self.lock:
            if not self._over.is_set():
                self._write("\r" + self._frame())

    def above(self, stream: TextIO, text: str) -> None:
        """Write whole lines to a stream, and the rows anew below them."""
        with self.lock:
            if self._over.is_set():
                stream.write(text)
                return
            self._wipe()
            stream.write(text)
            stream.flush()
            self._write(self._frame())

    def _run(self) -> None:
        self.draw()
        while not self._over.wait(EVERY_S):
            self.draw()

    def _wipe(self) -> None:
        if self._drawn:
            self._write(_WIPE)

    def _frame(self) -> str:
        self._drawn = True
        width, height = self._size()
        rows = self._rows(width - 1)[: height - 2]  # a full last column would break the row
        lines = ["", *(self._styled(row) for row in rows)]
        return (_CLEAR_ROW + "\n").join(lines) + _CLEAR_BELOW + _UP.format(len(rows)) + "\r"

    def _styled(self, row: Text) -> str:
        with self._console.capture() as styled:
            self._console.print(row, end="")
        return styled.get()

    def _size(self) -> tuple[int, int]:
        try:  # of the terminal, not of $COLUMNS, which does not follow a resize
            width, height = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return 80, 24
        return width or 80, height or 24

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Above:
    """A standard stream while rows are drawn: whole lines go above the rows.

    Args:
        live: Who draws.
        stream: The stream itself; everything but writing is left to it.
    """

    def __init__(self, live: Live, stream: TextIO) -> None:
        self._live = live
        self._raysb_stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Pass on what is whole lines by now; the rest waits for its end."""
        with self._live.lock:  # one lock for both, so that neither waits for the other
            whole, newline, self._begun = (self._begun + text).rpartition("\n")
            if newline:
                self._live.above(self._raysb_stream, whole + newline)
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Pass on a line without an end; the stream itself stays open."""
        with self._live.lock:
            begun, self._begun = self._begun, ""
            self._raysb_stream.write(begun)
            self._raysb_stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raysb_stream, name)
