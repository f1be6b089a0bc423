"""When the loop evaluates, saves, records and ends."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.scoring.cursor import Cursor
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training import loop
from raysb.training.batch_stream import BatchStream
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop, with_scores
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

TASK = Task(
    model=lambda: nn.Linear(2, 1),
    forward=inputs("x"),
    loss=lambda outputs, batch: outputs.squeeze(1) ** 2,
)
N, POOL_ROWS = 40, 10  # four pools an epoch


def block(pool, rows):
    columns = {
        "x": np.ones((rows, 2), np.float32),
        ID: np.arange(rows),
        POOL: np.full(rows, pool),
        PROBABILITY: np.ones(rows, np.float32),
        WEIGHT: np.ones(rows, np.float32),
        LOSS: np.zeros(rows, np.float32),
        WEIGHTS_STEP: np.zeros(rows, np.int64),
    }
    return columns


class Given(BatchStream):
    """So many selected rows of each pool; the steps can be resumed at a cursor."""

    def __init__(self, selected):
        source = ArraySource({"x": np.zeros((N, 2), np.float32)})
        super().__init__(
            StreamSpec(
                source=source,
                task=TASK,
                selector=SelectiveBackprop(),
                scoring=Scoring(batch_size=POOL_ROWS),
            ),
            check_first_batch=False,
        )
        self.selected = selected

    def _open(self, batch_size, epochs, model):
        return self.spec.plan(batch_size, epochs)

    def _blocks(self):
        for pool in range(self.cursor.low, len(self.selected)):
            yield block(pool, self.selected[pool])

    def _publish(self, model):
        pass

    def _record_backward(self, ids, losses):
        pass

    def _close(self):
        pass


class Seen:
    """What a run called, in order."""

    def __init__(self, selected, evaluation=None, stream=None, stop=None, resumed=None, **training):
        self.lines, self.calls = [], []
        stream = self.stream = stream or Given(selected)
        settings = {"epochs": len(selected) // 4, "batch_size": 5} | training
        self.training = Training(**settings)
        model = self.model = TASK.build(0)
        self.lrs = []
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        optimizer.register_step_pre_hook(
            lambda o, a, k: self.lrs.append(o.param_groups[0]["lr"] / 1e-3)
        )
        hooks = Hooks(
            evaluate=self.evaluate,
            save=lambda metrics, score: self.calls.append(("save", stream.num_steps)),
            record=self.lines.append,
        )
        if stop is not None:
            hooks.stop = lambda: stop(stream)
        own = Loop(
            Learner(TASK, model, optimizer),
            stream,
            self.training,
            evaluation or Evaluation(),
            Budget(training=self.training, rows_per_epoch=N),
            hooks,
        )
        if resumed is not None:
            start = {"epoch": 0, "evaluated_at": -1, "num_lines": 0, "last": {}, "seconds": 0.0}
            start["stopping"] = {"best": None, "num_since": 0}
            own.load_state_dict(start | resumed)
        self.metrics = own.run()

    def evaluate(self):
        self.calls.append(("eval", self.stream.num_steps))
        return {"eval/loss": 0.25}

    def kinds(self, *kinds):
        return [
            (li["kind"], li.get("epoch"), li["step"]) for li in self.lines if li["kind"] in kinds
        ]


def test_each_epoch_is_evaluated_once_when_its_last_row_is_trained() -> None:
    seen = Seen([10] * 12)
    assert seen.kinds("epoch") == [("epoch", 0, 8), ("epoch", 1, 16), ("epoch", 2, 24)]
    assert [call for call in seen.calls if call[0] == "eval"] == [
        ("eval", 8),
        ("eval", 16),
        ("eval", 24),
    ]


def test_rows_that_an_epoch_leaves_over_are_trained_before_it_is_evaluated() -> None:
    seen = Seen([10, 10, 10, 3] * 2)  # 33 rows: 6 batches and 3 rows that wait
    assert seen.kinds("epoch") == [("epoch", 0, 7), ("epoch", 1, 14)]


def test_epochs_in_which_nothing_is_selected_are_evaluated_once_too() -> None:
    seen = Seen([10] * 4 + [0] * 8 + [10] * 4 + [0] * 4)
    assert seen.kinds("epoch") == [
        ("epoch", 0, 8),
        ("epoch", 1, 8),
        ("epoch", 2, 8),
        ("epoch", 3, 16),
        ("epoch", 4, 16),
    ]


def test_a_resumed_run_evaluates_only_the_epochs_that_it_ends() -> None:
    stream = Given([10] * 16)
    stream.cursor, stream.num_steps = Cursor(9), 18
    seen = Seen([10] * 16, stream=stream, resumed={"epoch": 2})
    assert [epoch for _, epoch, _ in seen.kinds("epoch")] == [2, 3]
    stream = Given([10] * 8 + [0] * 4 + [10] * 4)  # nothing is left of the epoch it resumes in
    stream.cursor, stream.num_steps = Cursor(9), 16
    seen = Seen([0] * 16, stream=stream, resumed={"epoch": 2})
    assert [epoch for _, epoch, _ in seen.kinds("epoch")] == [2, 3]


def test_what_was_evaluated_before_the_checkpoint_is_not_evaluated_again() -> None:
    for evaluated_at, times in ((16, 0), (12, 1)):
        stream = Given([0] * 8)
        stream.cursor, stream.num_steps = Cursor(8), 16
        resumed = {"epoch": 2, "evaluated_at": evaluated_at}
        seen = Seen([0] * 8, Evaluation(every=4), stream=stream, resumed=resumed)
        assert len([call for call in seen.calls if call[0] == "eval"]) == times


def test_evaluations_every_so_many_steps_and_one_at_the_end() -> None:
    seen = Seen([10] * 8, Evaluation(every=6))
    assert seen.kinds("epoch", "eval") == [("eval", 0, 6), ("eval", 1, 12), ("eval", 1, 16)]
    assert seen.metrics["eval/loss"] == 0.25
    twice = Seen([10] * 8, Evaluation(every=8))
    assert [step for _, step in twice.calls if _ == "eval"] == [8, 16]


def test_checkpoints_every_so_many_steps_and_one_at_the_end() -> None:
    seen = Seen([10] * 8, checkpoint_every=6)
    assert [step for call, step in seen.calls if call == "save"] == [6, 12, 16]


@pytest.mark.parametrize(
    ("every", "saves"),
    [
        (0, [4, 8, 12, 16, 16]),  # its clock is read before a step, and the save comes after it
        (6, [4, 6, 10, 12, 16, 16]),  # any save starts the clock anew
    ],
)
def test_the_clock_saves_once_when_its_time_is_over_and_counts_from_there(
    monkeypatch, every, saves
) -> None:
    """Each step takes 100 s, and a checkpoint is due every 300 s."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 100.0 * stream.num_steps))
    stream = Given([10] * 8)
    seen = Seen([10] * 8, stream=stream, checkpoint_every_s=300.0, checkpoint_every=every)
    assert [step for call, step in seen.calls if call == "save"] == saves


def test_a_run_starts_and_ends_with_a_line_and_the_last_metrics_are_complete() -> None:
    seen = Seen([10] * 8)
    assert [line["kind"] for line in seen.lines if line["kind"] != "train"] == [
        "start",
        "epoch",
        "epoch",
        "end",
    ]
    end = seen.lines[-1]
    assert (end["step"], end["num_backpropped"], end["num_scored"]) == (16, 80, 80)
    assert (end["epoch"], end["fraction"]) == (1, 1.0)
    assert end["cost"] == pytest.approx((80 + 80 / 3) / 40)
    assert end["max_age_steps"] == 15
    assert seen.metrics["train/loss"] > 0


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_steps": 3}, 3),
        ({"max_backprops": 23}, 5),
        ({"max_time_s": 1e-9}, 0),
        ({"max_steps": 99}, 16),
        # a pool of 10 costs 10/3 when its first row is trained: (5 k + 10 / 3 ceil(k / 2)) / 40
        ({"max_cost": 0.5}, 3),
        ({"max_cost": 0.5, "scoring_cost": 0.0}, 4),
        ({"max_cost": 0.5, "scoring_cost": 1.0}, 2),
    ],
)
def test_a_run_stops_where_the_limits_say_evaluated_and_saved(limits, steps) -> None:
    seen = Seen([10] * 8, **limits)
    assert seen.stream.num_steps == steps
    assert seen.calls[-2:] == [("eval", steps), ("save", steps)]
    assert seen.lines[-1]["kind"] == "end"
    assert seen.stream.num_backpropped == min(limits.get("max_backprops", 80), 5 * steps)


@pytest.mark.parametrize("resumed", [None, {"num_lines": 7}])
def test_a_run_says_where_it_begins_also_if_no_step_follows(resumed) -> None:
    """Else the lines of a run that died before stay beside those that were done again."""
    for limits, steps in (({}, 16), ({"max_time_s": 1e-9}, 0)):
        seen = Seen([10] * 8, resumed=resumed, **limits)
        openings = [line for line in seen.lines if line["kind"] in ("start", "resume")]
        assert openings == seen.lines[:1]
        assert openings[0]["kind"] == ("start" if resumed is None else "resume")
        assert openings[0]["line"] == (0 if resumed is None else 7)
        assert seen.stream.num_steps == steps


def test_an_interrupted_run_is_saved_at_that_step_and_not_evaluated_again() -> None:
    seen = Seen([10] * 8, stop=lambda stream: stream.num_steps == 5, checkpoint_every=2)
    assert seen.stream.num_steps == 5
    assert seen.calls == [("save", 2), ("save", 4), ("save", 5)]
    for end in (seen.lines[-1], seen.metrics):
        assert (end["kind"], end["step"], end["stopped_by"]) == ("end", 5, "interrupted")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, None),
        ({"max_steps": 99}, None),
        ({"max_steps": 3}, "train.max_steps=3"),
        ({"max_backprops": 23}, "train.max_backprops=23"),
        ({"max_time_s": 1e-9}, "train.max_time_s=1e-09"),
        ({"max_cost": 0.5}, "train.max_cost=0.5"),
    ],
)
def test_the_last_line_names_the_setting_that_ended_the_run(limits, reason) -> None:
    assert Seen([10] * 8, **limits).lines[-1]["stopped_by"] == reason


def test_a_stop_that_comes_after_the_last_row_changes_nothing() -> None:
    seen = Seen([10] * 8, stop=lambda stream: stream.num_steps == 16)
    assert seen.lines[-1]["stopped_by"] is None
    assert seen.calls[-2:] == [("eval", 16), ("save", 16)]


def test_the_rate_follows_steps_cost_or_epochs() -> None:
    args = {"schedule": "linear", "scoring_cost": 1 / 3}
    steps = Seen([10] * 8, schedule_axis="steps", max_steps=10, **args)
    np.testing.assert_allclose(steps.lrs, 1 - np.arange(10) / 10, atol=1e-12)
    cost = Seen([10] * 8, schedule_axis="cost", max_cost=2.0, **args)
    k = np.arange(len(cost.lrs))
    spent = (5 * k + 10 / 3 * (k // 2 + 1)) / 40
    np.testing.assert_allclose(cost.lrs, 1 - spent / 2, atol=1e-12)
    epochs = Seen([10] * 8, **args)
    np.testing.assert_allclose(epochs.lrs, 1 - np.arange(16) // 2 / 8, atol=1e-12)


def test_lines_carry_the_sums_of_their_own_epoch_else_of_the_newest() -> None:
    sums = {
        "num_offered": 100,
        "num_scored": 100,
        "num_selected": 40,
        "num_correct": 90,
        "num_judged": 100,
        "loss_sum": 49.0,
        "num_nonfinite": 2,
        "score_seconds": 1.5,
    }
    other = sums | {"num_selected": 10, "num_judged": 0}
    progress = {"epochs": {0: sums, 1: other}, "waiting_rows": 7}
    line = with_scores({"kind": "epoch", "epoch": 0, "step": 3}, progress)
    assert line["score/loss"] == 0.5
    assert line["score/error"] == pytest.approx(0.1)
    assert line["select/kept_fraction"] == 0.4
    assert (line["select/waiting_rows"], line["score/nonfinite"]) == (7, 2)
    newest = with_scores({"kind": "train", "epoch": 0, "step": 3}, progress)
    assert newest["select/kept_fraction"] == 0.1
    assert "score/error" not in newest
    nothing = {"kind": "train", "epoch": 0, "step": 3}
    assert with_scores(nothing, {"epochs": {}, "waiting_rows": 0}) == nothing
    blind = sums | dict.fromkeys(("num_scored", "num_judged", "num_nonfinite", "loss_sum"), 0)
    drawn = with_scores(nothing, {"epochs": {0: blind}, "waiting_rows": 0})
    assert (drawn["select/kept_fraction"], drawn["select/scored_fraction"]) == (0.4, 0.0)
    assert not any(name.startswith("score/") for name in drawn)
    uniform = blind | {"num_selected": 100}
    assert with_scores(nothing, {"epochs": {0: uniform}, "waiting_rows": 0}) == nothing


def test_a_run_that_goes_on_has_already_used_the_time_before_its_checkpoint() -> None:
    """With every fault train.max_time_s began anew."""
    seen = Seen([5] * 8, max_time_s=3600.0, resumed={"seconds": 3600.0})
    assert seen.metrics["step"] == 0
    assert seen.metrics["wall_time_s"] >= 3600
    seen = Seen([5] * 8, max_time_s=3600.0, resumed={"seconds": 1800.0})
    assert seen.metrics["step"] == 8
    assert 1800 <= seen.metrics["wall_time_s"] < 3600
