"""A terminal for the tests: a pseudo-terminal, and pyte, which understands what is written to it.

with Terminal() as terminal:  # standard output and standard error lead to it
    print("hello")
    assert terminal.lines() == ["hello"]
"""

import fcntl
import os
import select
import struct
import sys
import termios

import pyte


class Terminal:
    """A terminal of so many columns and rows.

    Attributes:
        stream: Where a program writes.
        raw: All bytes written so far.
    """

    def __init__(self, columns: int = 120, rows: int = 24) -> None:
        self._master, self.slave = os.openpty()
        self.stream = open(self.slave, "w", encoding="utf-8", closefd=False)
        self.raw = b""
        self._screen = pyte.Screen(columns, rows)
        self._parser = pyte.ByteStream(self._screen)
        self._resize_pty(columns, rows)

    def _resize_pty(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int = 24) -> None:
        """Change the size, as a user does with the window."""
        self._take()
        self._resize_pty(columns, rows)
        self._screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """What stands on the screen, without the empty lines below."""
        self._take()
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column, from 0."""
        self._take()
        return self._screen.cursor.y, self._screen.cursor.x

    def _take(self) -> None:
        self.stream.flush()
        while select.select([self._master], [], [], 0.05)[0]:
            read = os.read(self._master, 1 << 16)
            self.raw += read
            self._parser.feed(read)

    def __enter__(self) -> "Terminal":
        self._before = (sys.stdout, sys.stderr)
        sys.stdout = sys.stderr = self.stream
        return self

    def __exit__(self, *error: object) -> None:
        sys.stdout, sys.stderr = self._before
        self._take()
        self.stream.close()
        os.close(self.slave)
        os.close(self._master)
