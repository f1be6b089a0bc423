"""How far a run is, and what its console says in the end."""

import time
from typing import Any

import pytest

from raysb.interrupt import STOPPING
from raysb.report.screen import Screen
from raysb.training.settings import Training


def line(**values: Any) -> dict[str, Any]:
    given = {"kind": "train", "fraction": 0.1, "step": 30, "num_backpropped": 100, "cost": 1.0}
    return {**given, "num_scored": 200, "wall_time_s": 6.0, **values}


@pytest.mark.parametrize(
    ("limits", "share"),
    [
        ({}, 0.1),
        ({"max_steps": 60}, 0.5),
        ({"max_steps": 600}, 0.1),  # the epochs come first
        ({"max_backprops": 400}, 0.25),
        ({"max_time_s": 8.0}, 0.75),
        ({"max_cost": 4.0}, 0.25),
        ({"max_cost": 0.9}, 1.0),  # a step may pass the limit
    ],
)
def test_the_time_left_is_that_until_the_nearest_limit(capsys: Any, limits: Any, share: float):
    screen = Screen(Training(epochs=10, **limits), time.monotonic())
    screen.line(line())
    left = round(6.0 * (1 - share) / share)
    assert capsys.readouterr().out.endswith(f"0:{left:02d} left\n")


def test_a_request_to_stop_is_answered_at_once(capsys: Any) -> None:
    screen = Screen(Training(), time.monotonic())
    screen.phase(STOPPING)
    assert capsys.readouterr().out.startswith("stopping after the next step")
    screen.line(line(kind="end", stopped_by="interrupted"))
    screen.summary("runs/x")
    assert "note:    interrupted\n" in capsys.readouterr().out


def test_the_phases_of_the_start_are_one_line_with_their_seconds(capsys: Any) -> None:
    screen = Screen(Training(), time.monotonic() - 2.0)
    screen.phase("checks")
    assert capsys.readouterr().out == ""
    screen.phase("first batch")
    assert capsys.readouterr().out.startswith("start: checks 2.0 s, first batch 0.0 s")


def test_where_nothing_was_evaluated_nothing_is_said_of_it(capsys: Any) -> None:
    screen = Screen(Training(epochs=10), time.monotonic())
    screen.line(line(kind="epoch", wall_time_s=1.0, **{"train/loss": 0.1}))
    screen.line(line(kind="eval", wall_time_s=1.5))
    assert capsys.readouterr().out == ""
    screen.line(line(kind="epoch", wall_time_s=6.0))  # a line of progress is due all the same
    assert capsys.readouterr().out.startswith("epoch 1/10, scored ")
    screen.line(line(kind="epoch", wall_time_s=7.0, fraction=0.2, **{"eval/loss": 0.5}))
    assert capsys.readouterr().out == "eval: loss 0.5, epoch 2/10, step 30\n"


@pytest.mark.parametrize("published", [5160, 376744])
def test_the_summary_says_which_part_of_the_weights_was_published(
    capsys: Any, published: int
) -> None:
    screen = Screen(Training(), time.monotonic())
    sizes = {"weights/published_bytes": published, "weights/total_bytes": 376744}
    screen.line(line(kind="end", **sizes))
    screen.summary("runs/x")
    said = ", 6.0 s, 5,160 of 376,744 bytes of weights published\n" in capsys.readouterr().out
    assert said == (published < 376744)
