"""What stands on a terminal while a run is drawn, as a terminal emulator reads it."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parent))
from terminal import Terminal

from raysb.report.live import Live, can_draw
from raysb.report.screen import Screen
from raysb.training.settings import Training

TERMINAL = {"TERM": "xterm-256color"}


@pytest.fixture(autouse=True)
def users_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a user's terminal."""
    monkeypatch.setenv("TERM", TERMINAL["TERM"])
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def two_rows(terminal: Terminal) -> Iterator[Live]:
    """Two rows that are drawn."""
    live = Live(lambda width: [Text("first row"), Text("second row")], terminal.stream)
    live.start()
    try:
        yield live
    finally:
        live.stop()


def a_screen() -> Screen:
    return Screen(Training(epochs=10), time.monotonic())


def line(kind: str = "train", **values: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "step": 0,
        "epoch": 0,
        "fraction": 0.0,
        "num_scored": 0,
        "num_backpropped": 0,
        "cost": 0.0,
        "wall_time_s": 0.0,
        "mean_age_steps": None,
        **values,
    }


LINES = [
    line("start"),
    line("epoch", step=40, fraction=0.1, wall_time_s=4.0, **{"eval/error": 0.0512}),
    line(
        step=90,
        fraction=0.225,
        num_scored=16_000,
        num_backpropped=6_400,
        wall_time_s=8.0,
        mean_age_steps=3.04,
        **{
            "select/kept_fraction": 0.493,
            "score/loss": 0.34567,
            "gpu/memory_used": 12.34e9,
            "gpu/memory_total": 80e9,
            "gpu/utilization": 0.87,
        },
    ),
]
FIGURES = [
    "epoch 2.25/10",
    "22%",
    "scored 2,000/s",
    "back-propagated 800/s",
    "kept 49%",
    "age 3.0 steps",
    "loss 0.3457",
    "test error 5.12%",
    "GPU 12.3/80 GB, 87%",
]


def show(screen: Screen) -> None:
    for name in ("checks", "ray", "workers", "first batch"):
        screen.phase(name)
    for each in LINES:
        screen.line(each)


def shown(terminal: Terminal, screen: Screen) -> list[str]:
    """What stands on the terminal after the next drawing."""
    assert screen._live is not None
    screen._live.draw()
    return terminal.lines()


def test_the_rows_show_the_figures_of_the_lines() -> None:
    with Terminal() as terminal, a_screen() as screen:
        show(screen)
        start, evaluation, empty, *rest = shown(terminal, screen)
        rows = "\n".join(rest)
        assert [figure for figure in FIGURES if figure not in rows] == []
        left = rows.split(" left")[0].split()[-1]  # 8 s x .775 / .225 = 27.6 s, a moment ago
        assert left in ("0:28", "0:27", "0:26", "0:25")
        assert start.startswith("start: checks")
        assert (evaluation, empty) == ("eval: error 5.12%, epoch 1/10, step 40", "")


def test_before_the_first_batch_the_rows_say_what_is_waited_for() -> None:
    with Terminal() as terminal, a_screen() as screen:
        assert shown(terminal, screen)[1].startswith("checking ")
        screen.phase("checks")
        screen.phase("ray")
        assert "starting workers" in shown(terminal, screen)[1]


@pytest.mark.parametrize("columns", [40, 57, 80, 200])
def test_every_figure_is_there_at_any_width(columns: int) -> None:
    with Terminal(columns) as terminal, a_screen() as screen:
        show(screen)
        text = "\n".join(shown(terminal, screen))
        assert [figure for figure in FIGURES if text.count(figure) != 1] == []


def test_a_terminal_that_changes_its_size_shows_each_figure_once() -> None:
    with Terminal() as terminal, a_screen() as screen:
        show(screen)
        for columns in (60, 40, 110):
            terminal.resize(columns)
            text = "\n".join(shown(terminal, screen))
            assert [figure for figure in FIGURES if text.count(figure) != 1] == [], columns


def test_a_low_terminal_shows_as_many_rows_as_fit() -> None:
    with Terminal(40, 5) as terminal, a_screen() as screen:
        show(screen)
        assert shown(terminal, screen)[-3].startswith("epoch 2.25/10")


def test_the_last_column_stays_free() -> None:
    """Some terminals break a row that fills it, and the next drawing would begin too low."""
    with Terminal(40) as terminal:
        live = Live(lambda width: [Text("x" * width)], terminal.stream)
        live.start()
        live.draw()
        lines = terminal.lines()
        live.stop()
    assert [len(line) for line in lines] == [0, 39]


def test_what_others_print_stands_above_the_rows() -> None:
    with Terminal() as terminal, two_rows(terminal) as live:
        sys.stdout.write("one\ntw")
        sys.stderr.write("warning: three\n")
        sys.stdout.write("o\n")
        live.draw()
        assert terminal.lines() == ["one", "warning: three", "two", "", "first row", "second row"]


def test_what_is_written_past_python_is_never_wiped_out() -> None:
    with Terminal() as terminal, two_rows(terminal) as live:
        for text in (b"from a C library\n", b"two\nlines\n", b"x" * 250 + b"\n"):
            live.draw()
            os.write(terminal.slave, text)
        live.draw()
        lines = terminal.lines()
        # a drawn row may show behind the text that was written over it
        assert lines[0] == "from a C library"
        assert (lines[1], lines[2][:5]) == ("two", "lines")
        assert "".join(lines).count("x") == 250
        assert lines[-2:] == ["first row", "second row"]


def test_at_the_end_only_lines_are_left_and_the_cursor_stands_below_them() -> None:
    with Terminal() as terminal:
        with a_screen() as screen:
            show(screen)
            sys.stderr.write("a warning\n")
            screen.summary("runs/x")
        assert sys.stdout is sys.stderr is terminal.stream
        lines = terminal.lines()
        assert not any("·" in row for row in lines)
        assert "a warning" in lines
        assert lines[-1] == "written: runs/x"
        assert terminal.cursor == (len(lines), 0)
        assert b"\x1b[?25l" not in terminal.raw  # what was never hidden need not come back


def test_a_line_without_an_end_is_not_lost() -> None:
    with Terminal() as terminal:
        with two_rows(terminal):
            sys.stderr.write("no end of line")
        assert terminal.lines() == ["no end of line"]


def test_an_error_leaves_a_clean_terminal_too() -> None:
    def fail() -> None:
        with a_screen() as screen:
            show(screen)
            raise ZeroDivisionError

    with Terminal() as terminal:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert sys.stderr is terminal.stream
        assert len(terminal.lines()) == 2


@pytest.mark.parametrize(
    "environ",
    [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}, {"TERM": ""}, {"TERM": "unknown"}],
)
def test_who_asks_for_plain_lines_gets_no_control_character(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Terminal() as terminal:
        with a_screen() as screen:
            show(screen)
            screen.summary("runs/x")
        assert terminal.lines()[-1] == "written: runs/x"
        assert b"\x1b" not in terminal.raw


def test_only_a_terminal_that_moves_its_cursor_is_drawn_on() -> None:
    with Terminal() as terminal:
        assert can_draw(terminal.stream, TERMINAL)
        assert can_draw(terminal.stream, TERMINAL | {"NO_COLOR": "", "CI": "false"})
        assert not can_draw(terminal.stream, {})
    assert not can_draw(io.StringIO(), TERMINAL)


def test_a_pipe_gets_no_control_character() -> None:
    code = """
import sys, time
sys.path.insert(0, {here!r})
from test_live import Screen, Training, show
with Screen(Training(epochs=10), time.monotonic()) as screen:
    show(screen)
    time.sleep(.5)
    screen.summary("runs/x")
"""
    code = code.format(here=str(Path(__file__).parent))
    environ = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")} | TERMINAL
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=environ, check=True
    )
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"written: runs/x" in done.stdout
