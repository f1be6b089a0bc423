"""Record a command on a terminal as an animated SVG: how the README's picture was made.

    python pipelines/record_terminal.py docs/pictures/live.svg -- raysb train --engine local

The command runs in a pseudo-terminal of its own, in an empty folder; what it writes is read by
pyte, a terminal emulator, and some of the screens are drawn by rich. Where pictures do not move
(print, reduced motion), the one in the middle of the run is seen. Needs the extra `dev`.
"""

import argparse
import fcntl
import io
import itertools
import os
import re
import struct
import subprocess
import tempfile
import termios
import time
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

SECONDS_A_FRAME = 1.8
# pyte knows no dim text; in the picture it is grey
DIM, GREY = b"\x1b[2m", b"\x1b[90m"
COLORS = {"brown": "yellow", "brightbrown": "bright_yellow", "default": "default"}


def record(command: list[str], columns: int, rows: int) -> list[tuple[float, bytes]]:
    """Run a command in a terminal; returns what it wrote, with the seconds at which it did."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "CI", "COLUMNS", "LINES")}
    written = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**plain, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        while True:
            try:
                read = os.read(master, 1 << 16)
            except OSError:  # Linux says so when nobody holds the other end
                break
            if not read:
                break
            written.append((time.monotonic() - start, read))
        process.wait()
    os.close(master)
    return written


def screens(
    written: list[tuple[float, bytes]], title: str, columns: int, rows: int
) -> list[tuple[float, Text]]:
    """Every screen that differs from the one before, with its seconds."""
    screen = pyte.Screen(columns, rows)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {title}\r\n".encode())
    found = [(0.0, _text(screen))]
    for seconds, read in written:
        stream.feed(read.replace(DIM, GREY))
        shown = _text(screen)
        if shown != found[-1][1]:
            found.append((seconds, shown))
    return found


def _text(screen: pyte.Screen) -> Text:
    shown = Text()
    for row in range(screen.lines):
        chars = [screen.buffer[row][column] for column in range(screen.columns)]
        line = Text()
        for style, run in itertools.groupby(chars, key=_style):
            line.append("".join(char.data for char in run), style)
        line.rstrip()
        shown.append_text(line).append("\n")
    return shown


def _style(char: pyte.screens.Char) -> Style:
    color = COLORS.get(char.fg, char.fg.replace("bright", "bright_"))
    color = f"#{color}" if re.fullmatch("[0-9a-f]{6}", color) else color
    return Style(color=color, bold=char.bold)


def pick(found: list[tuple[float, Text]], count: int) -> list[Text]:
    """So many screens, evenly among those that differ, from the second to the last."""
    last = len(found) - 1
    chosen = [1 + round(i * (last - 1) / (count - 1)) for i in range(count)]
    return [found[min(i, last)][1] for i in chosen]


def draw(frames: list[Text], title: str, columns: int) -> str:
    """One SVG that shows the frames in turn."""
    drawn = [_svg(frame, title, columns, f"t{i}") for i, frame in enumerate(frames)]
    box = re.search('viewBox="([^"]+)"', drawn[0])
    if box is None:
        raise RuntimeError("rich's SVG has no viewBox")
    period, share = SECONDS_A_FRAME * len(drawn), 100 / len(drawn)
    still = len(drawn) // 2
    style = [
        ".frame{opacity:0}",
        f".frame:nth-of-type({still + 1}){{opacity:1}}",
        "@media (prefers-reduced-motion: no-preference){",
        f".frame{{animation:show {period:g}s steps(1) infinite}}",
        *(
            f".frame:nth-of-type({i + 1}){{animation-delay:{i * SECONDS_A_FRAME - period:g}s}}"
            for i in range(len(drawn))
        ),
        f"@keyframes show{{0%{{opacity:1}}{share:.3f}%{{opacity:0}}}}",
        "}",
    ]
    parts = (re.sub(r"<svg [^>]*>", '<g class="frame">', svg, count=1) for svg in drawn)
    frames_svg = "".join(part.replace("</svg>", "</g>") for part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}">'
        f"<style>{''.join(style)}</style>{frames_svg}</svg>\n"
    )


def _svg(frame: Text, title: str, columns: int, name: str) -> str:
    console = Console(record=True, width=columns, file=io.StringIO(), highlight=False)
    console.print(frame, end="")
    svg = console.export_svg(title=title, unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts from the network
    svg = svg.replace("Fira Code, monospace", "monospace")
    return re.sub(r">\s+<", "><", re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL))


def main() -> None:
    """Record, and say how large the picture is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("command", nargs="+", help="after --")
    parser.add_argument("--columns", type=int, default=104)
    parser.add_argument("--rows", type=int, default=17)
    parser.add_argument("--frames", type=int, default=6)
    given = parser.parse_args()
    title = " ".join(given.command)
    written = record(given.command, given.columns, given.rows)
    found = screens(written, title, given.columns, given.rows)
    svg = draw(pick(found, given.frames), title, given.columns)
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    given.picture.write_text(svg, encoding="utf-8")
    print(f"{given.picture}: {len(svg.encode())} bytes, {len(found)} screens")


if __name__ == "__main__":
    main()
