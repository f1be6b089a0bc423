"""What a run says, as text."""

import io
import os
from pathlib import Path
from typing import Any

import pytest

from raysb.report.console import (
    Console,
    duration,
    evaluation_line,
    phases_line,
    progress_line,
    summary_lines,
)

RECORD = {
    "step": 156,
    "epoch": 2.25,
    "epochs": 10,
    "wall_time_s": 20.0,
    "num_scored": 26_000,
    "num_backpropped": 13_000,
    "kept": 0.493,
    "age": 3.04,
    "score/loss": 0.34567,
    "eval/error": 0.0512,
    "eval/loss": 0.1714,
    "left_s": 83.4,
}


def record(seconds: float, run: float | None = None) -> dict[str, Any]:
    """Of a run that takes `run` seconds, where that is known."""
    shares = {} if run is None else {"share": min(seconds / run, 1.0)}
    return {"wall_time_s": seconds, "num_scored": 100 * seconds, "epoch": seconds / 12, **shares}


def test_phases_are_named_with_their_seconds() -> None:
    phases = {"ray": 4.08, "workers": 9.8, "first batch": 0.61}
    assert phases_line(phases) == "ray 4.1 s, workers 9.8 s, first batch 0.6 s"


def test_progress_shows_rates_since_the_record_before() -> None:
    before = {"wall_time_s": 10.0, "num_scored": 6_000, "num_backpropped": 5_000}
    assert progress_line(RECORD, before) == (
        "epoch 2.25/10, scored 2,000/s, back-propagated 800/s, kept 49%, age 3.0 steps, "
        "loss 0.3457, eval error 5.12%, 1:23 left"
    )


def test_progress_without_a_record_before_counts_from_the_start() -> None:
    assert "scored 1,300/s, back-propagated 650/s" in progress_line(RECORD)


def test_what_is_not_known_is_left_out() -> None:
    assert progress_line({"epoch": 1, "age": None, "score/loss": float("nan")}) == "epoch 1"
    assert progress_line({"wall_time_s": 0.0, "num_scored": 5}) == ""
    assert evaluation_line({"eval/loss": 0.5}) == "eval: loss 0.5"


def test_an_evaluation_is_one_line() -> None:
    assert evaluation_line(RECORD) == "eval: error 5.12%, loss 0.1714, epoch 2.25/10, step 156"


def test_the_end_says_what_was_reached_at_which_cost_and_where_it_lies() -> None:
    summary = RECORD | {"epoch": 10, "step": 780, "cost": 6.324, "wall_time_s": 71.23}
    assert summary_lines(summary, Path("runs/cnn-1")) == [
        "reached: error 5.12%, loss 0.1714, epoch 10/10, 780 steps",
        "cost:    26,000 rows scored, 13,000 back-propagated, "
        "the cost of 6.32 epochs of uniform training, 71.2 s",
        "written: runs/cnn-1",
    ]


def test_the_end_says_how_much_of_the_weights_was_published_where_it_is_a_part() -> None:
    sizes = {"weights/published_bytes": 5160, "weights/total_bytes": 376744}
    assert summary_lines({"wall_time_s": 2.0, **sizes}, "r")[0] == (
        "cost:    2.0 s, 5,160 of 376,744 bytes of weights published"
    )
    whole = {**sizes, "weights/published_bytes": 376744}
    assert summary_lines({"wall_time_s": 2.0, **whole}, "r")[0] == "cost:    2.0 s"


def test_the_end_notes_an_early_stop_and_what_was_not_used() -> None:
    summary = {"stopped_by": "train.max_time_s=60", "num_unused": 1200, "num_nonfinite": 3}
    assert summary_lines(summary, "r") == [
        "note:    stopped by train.max_time_s=60, 1,200 selected rows not used, "
        "3 losses not finite",
        "written: r",
    ]
    quiet = {"stopped_by": None, "num_unused": 0, "num_nonfinite": 0}
    assert summary_lines(quiet, "r") == ["written: r"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.5, "0:01"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (3599.7, "1:00:00"),
        (11045, "3:04:05"),
        (90061, "25:01:01"),
    ],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def run_of(
    seconds: float, *, evaluate_every: float, tick: float = 0.1, known: bool = True, log: Any = None
) -> list[str]:
    """The lines of a run that reports every `tick` seconds."""
    stream = io.StringIO()
    console = Console(stream)
    if log is not None:
        console.log_to(log)
    console.phases({"ray": 4.0, "workers": 9.0})
    run = seconds if known else None
    evaluated = 0
    for step in range(1, round(seconds / tick) + 1):
        now = step * tick
        console.progress(record(now, run))
        if now >= (evaluated + 1) * evaluate_every - 1e-9:
            evaluated += 1
            console.evaluation(record(now, run) | {"eval/error": 0.1})
    console.summary(record(seconds), "runs/cnn-1")
    console.close()
    return stream.getvalue().splitlines()


def test_two_minutes_with_ten_evaluations_take_fewer_than_forty_lines() -> None:
    lines = run_of(120, evaluate_every=12)
    assert len(lines) < 40
    assert sum(line.startswith("eval:") for line in lines) == 10
    assert sum(line.startswith("epoch") for line in lines) >= 1


def test_a_run_without_evaluations_is_heard_of_every_tenth_of_it() -> None:
    lines = run_of(120, evaluate_every=1000)
    progress = [line for line in lines if line.startswith("epoch")]
    assert progress[0] == "epoch 0.4167, scored 100/s"
    assert 8 <= len(progress) <= 12


@pytest.mark.parametrize("epochs", [1, 7, 20, 50, 1000])
@pytest.mark.parametrize("hours", [1 / 120, 1, 24, 720])
@pytest.mark.parametrize("known", [True, False])
def test_no_run_shows_forty_lines_and_its_log_has_all(
    tmp_path: Path, epochs: int, hours: float, known: bool
) -> None:
    seconds = 3600 * hours
    lines = run_of(
        seconds,
        evaluate_every=seconds / epochs,
        tick=seconds / 4000,
        known=known,
        log=tmp_path / "log",
    )
    assert len(lines) < 40
    logged = (tmp_path / "log").read_text().splitlines()
    assert sum(line.startswith("eval:") for line in logged) == epochs
    if known and epochs <= 20:
        assert sum(line.startswith("eval:") for line in lines) == epochs
    if known:  # the last evaluation is always seen
        assert (
            next(line for line in reversed(lines) if line[:5] in ("eval:", "epoch"))[:5] == "eval:"
        )


def test_progress_that_is_drawn_live_goes_to_the_log_alone(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(stream, progress=False)
    console.log_to(tmp_path / "run.log")
    console.progress(record(6.0))
    console.close()
    assert stream.getvalue() == ""
    assert "scored 100/s" in (tmp_path / "run.log").read_text()


def test_the_end_of_an_interrupted_run_says_so() -> None:
    assert summary_lines({"stopped_by": "interrupted"}, "r")[0] == "note:    interrupted"


def test_the_log_holds_every_line_also_those_before_it_existed(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(stream)
    console.line("before")
    console.log_to(tmp_path / "run.log")
    console.line("after ü")
    assert (tmp_path / "run.log").read_text(encoding="utf-8") == "before\nafter ü\n"
    console.close()
    console.close()
    assert stream.getvalue() == "before\nafter ü\n"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_line_holds_a_control_character(no_color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    assert all(line.isprintable() for line in run_of(30, evaluate_every=10))


def test_standard_output_is_looked_up_when_a_line_is_written(capsys: Any) -> None:
    Console().line("hello")
    assert capsys.readouterr().out == "hello\n"


def test_a_reader_that_leaves_ends_no_run_and_the_log_has_every_line(tmp_path, capsys) -> None:
    """`raysb train | head -1` ended the run with a traceback, without weights or checkpoint."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        console = Console(stream)
        console.log_to(tmp_path / "run.log")
        console.line("first")
        console.line("second")
        console.close()
    assert (tmp_path / "run.log").read_text() == "first\nsecond\n"
    told = capsys.readouterr().err
    assert told.count("the run goes on") == 1
    assert "Broken pipe" in told


def test_scorers_are_told_of_where_their_number_has_changed() -> None:
    steady = {"scorers/running": 2, "scorers/least": 2, "scorers/most": 2}
    grown = {"scorers/running": 1, "scorers/least": 1, "scorers/most": 4}
    assert "scorer" not in "".join(summary_lines(steady, "runs/1"))
    assert "cost:    1 scorer (1 to 4)" in summary_lines(grown, "runs/1")
    assert "2 scorers (1 to 4)" in progress_line(grown | {"scorers/running": 2})
