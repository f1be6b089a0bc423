"""Stale-SB against a naive one of its own: dicts, loops and ranks counted one by one."""

from collections import Counter

import numpy as np
import pytest
import torch

from raysb.history.table import LossTable
from raysb.local import LocalStream
from raysb.schema import ID, LOSS, PROBABILITY, WEIGHTS_STEP
from raysb.scoring.settings import Scoring
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop, StaleSelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec


def table_of(losses, *, step, epoch=0, table=None, ids=None):
    table = table or LossTable()
    count = len(losses)
    ids = np.arange(count) if ids is None else ids
    for start in range(0, count, 100):
        rows = np.arange(start, min(start + 100, count))
        table.record(
            ids[rows],
            np.asarray(losses, np.float32)[rows],
            correct=None,
            selected=np.zeros(len(rows), np.bool_),
            weights_step=step(start),
            epoch=epoch,
        )
    return table


def chances(selector, table, epoch):
    outlook = selector.outlook(table.records(), epoch, 99)
    return None if outlook is None else outlook.columns["probability"]


@pytest.mark.parametrize(
    ("selector", "scoring_epochs"),
    [
        (StaleSelectiveBackprop(), {0, 3, 6, 9}),
        (StaleSelectiveBackprop(refresh_every=1), set(range(10))),
        (StaleSelectiveBackprop(refresh_every=4, warmup_epochs=1), {0, 4, 8}),
        (StaleSelectiveBackprop(refresh_every=2, warmup_epochs=3), {0, 1, 2, 4, 6, 8}),
        (StaleSelectiveBackprop(staggered=True, warmup_epochs=2), {0, 1}),
    ],
)
def test_all_rows_are_scored_in_every_nth_epoch(selector, scoring_epochs) -> None:
    known = table_of(np.arange(1000.0), step=lambda start: start).records()
    everything = {e for e in range(10) if selector.outlook(known, e, 10) is None}
    assert everything == scoring_epochs
    scored = selector.preselect(np.arange(50), None, Draws())
    assert scored.score.tolist() == list(range(50))
    assert len(scored.drawn.indices) == 0


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_chance_is_the_rank_among_losses_of_like_age_counted_one_by_one(beta) -> None:
    draw = np.random.default_rng(0)
    losses = draw.integers(0, 30, 700) / 10 + np.linspace(5, 0, 700)
    ids = draw.permutation(700)  # the age of a loss is no matter of its id
    # windows of 233 rows cut through the hundreds of one step: level ones stay in order of id
    ids = np.concatenate([np.sort(part) for part in np.split(ids, 7)])
    table = table_of(losses, step=lambda start: start // 7, ids=ids)
    selector = StaleSelectiveBackprop(beta=beta, history=200, min_probability=0.01)
    got = chances(selector, table, 1)[ids]
    losses = losses.astype(np.float32)
    for window in np.array_split(np.arange(700), 3):  # 700 // 200 windows, oldest first
        for row in window:
            less = sum(losses[other] < losses[row] for other in window)
            equal = sum(losses[other] == losses[row] for other in window)
            wanted = max(0.01, ((less + equal / 2) / len(window)) ** beta)
            assert got[row] == pytest.approx(wanted, rel=1e-5)


def test_a_loss_is_not_preferred_for_its_date() -> None:
    """Losses fall by a factor of 20 within the scoring epoch: in one distribution the first tenth
    of the rows would have a mean chance of .95."""
    draw = np.random.default_rng(0)
    losses = draw.exponential(size=20_000) * np.geomspace(20, 1, 20_000)
    ids = draw.permutation(20_000)
    table = table_of(losses, step=lambda start: start, ids=ids)
    got = chances(StaleSelectiveBackprop(beta=1), table, 1)[ids]
    for part in np.array_split(got, 10):
        assert part.mean() == pytest.approx(0.5, abs=0.03)
    ranks = losses.argsort().argsort() / len(losses)
    assert ranks[:2000].mean() > 0.75


def test_an_increasing_map_of_all_losses_changes_no_chance() -> None:
    losses = np.floor(np.random.default_rng(0).exponential(size=900) * 40)
    for mapped in (losses * 8 - 3, losses**3):  # exact in float32, so ties stay ties
        both = [
            chances(
                StaleSelectiveBackprop(history=200), table_of(each, step=lambda start: start), 1
            )
            for each in (losses, mapped)
        ]
        np.testing.assert_array_equal(*both)


def test_a_training_steps_loss_moves_its_row_and_nobody_elses() -> None:
    losses = np.arange(1, 1001) / 100
    table = table_of(losses, step=lambda start: 5)
    selector = StaleSelectiveBackprop(beta=1)
    before = chances(selector, table, 1)
    table.record_backward(np.array([999]), np.array([2.0], np.float32), 40)
    after = chances(selector, table, 1)
    assert np.flatnonzero(before != after).tolist() == [999]
    assert after[999] == pytest.approx((199 + 0.5) / 1000)  # 2.0 is the 200th loss


def test_ids_without_a_finite_loss_are_scored() -> None:
    losses = np.arange(1.0, 301)
    losses[[7, 8]] = np.nan
    table = table_of(losses, step=lambda start: 0)
    selector = StaleSelectiveBackprop(min_probability=1.0)
    ids = np.array([6, 7, 8, 9, 4000])
    chosen = selector.preselect(ids, selector.outlook(table.records(), 1, 9), Draws(epoch=1))
    assert ids[chosen.score].tolist() == [7, 8, 4000]
    assert ids[chosen.drawn.indices].tolist() == [6, 9]
    assert chosen.loss.tolist() == [7.0, 10.0]
    assert chosen.rows.tolist() == [0, 1, 2, 3, 4]


def test_an_id_whose_last_score_was_not_finite_is_scored_again() -> None:
    """Its last loss is finite, of a training step or the score before, but nothing says its age."""
    table = table_of(np.arange(1.0, 301), step=lambda start: 0)
    table.record(
        np.array([7, 8]),
        np.array([np.nan, 2.0], np.float32),
        correct=None,
        selected=np.zeros(2, np.bool_),
        weights_step=9,
        epoch=1,
    )
    table.record_backward(np.array([7]), np.array([1.5], np.float32), 10)
    known = table.lookup(np.array([7]))
    assert (known.loss[0], bool(known.nonfinite[0])) == (1.5, True)
    selector = StaleSelectiveBackprop(min_probability=1.0)
    outlook = selector.outlook(table.records(), 2, 9)
    chosen = selector.preselect(np.arange(300), outlook, Draws(epoch=2))
    assert chosen.score.tolist() == [7]
    assert np.isfinite(outlook.columns["probability"]).all()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_staggered_each_epoch_scores_an_nth_of_the_ids_and_none_is_older_than_n(n) -> None:
    count = 1000
    selector = StaleSelectiveBackprop(refresh_every=n, staggered=True)
    table, ids = table_of(np.arange(float(count)), step=lambda start: 0), np.arange(count)
    last = np.zeros(count, int)
    for epoch in range(1, 3 * n):
        chosen = selector.preselect(
            ids, selector.outlook(table.records(), epoch, 99), Draws(epoch=epoch)
        )
        assert abs(len(chosen.score) - count / n) <= 1
        last[chosen.score] = epoch
        assert epoch - last.min() < n or epoch < n
    assert np.ptp(np.bincount(last)[-n:]) <= 1


def test_what_is_drawn_has_the_chance_that_it_is_said_to_have() -> None:
    """4,000 epochs of 200 rows: the largest of 200 deviations is below 4.5 standard errors."""
    table = table_of(np.random.default_rng(0).exponential(size=200), step=lambda start: 0)
    selector = StaleSelectiveBackprop(beta=2, history=1000)
    outlook, ids = selector.outlook(table.records(), 1, 9), np.arange(200)
    counts = np.zeros(200)
    for epoch in range(4000):
        counts[selector.preselect(ids, outlook, Draws(epoch=epoch)).drawn.indices] += 1
    p = outlook.columns["probability"].astype(float)
    error = np.abs(counts / 4000 - p) / np.sqrt(p * (1 - p) / 4000 + 1e-12)
    assert error.max() < 4.5
    assert counts.sum() / 800_000 == pytest.approx(1 / 3, abs=0.01)


def test_a_target_fraction_is_kept_in_epochs_that_score_nothing() -> None:
    table = table_of(np.random.default_rng(0).exponential(size=5000), step=lambda start: start)
    got = chances(StaleSelectiveBackprop(target_fraction=0.2), table, 1)
    assert got.mean() == pytest.approx(0.2, abs=0.005)


# --- in the stream ------------------------------------------------------------------------------


class Counted(ArraySource):
    """Counts the rows that are read, and the forward passes that score."""

    rows_read = 0

    def read(self, epoch, start, stop):
        self.rows_read += stop - start
        return super().read(epoch, start, stop)

    def read_some(self, epoch, start, stop, rows):
        self.rows_read += len(rows)
        return super().read_some(epoch, start, stop, rows)


def run(selector, *, epochs, count=1200, batch_size=16, lr=0.05, max_steps=None, state=None):
    """A regression trained by a plain loop over the local stream; what each step saw."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5, 3.0] + rng.normal(size=count) * rng.exponential(size=count)).astype(
        np.float32
    )
    forwards = Counter()

    def loss(outputs, batch):
        forwards["train" if outputs.requires_grad else "score"] += len(outputs)
        return (outputs.squeeze(1) - batch["y"]) ** 2

    def build():
        torch.manual_seed(1)
        return torch.nn.Linear(4, 1)

    source = Counted({"x": x, "y": y}, seed=2)
    spec = StreamSpec(
        source=source,
        task=Task(model=build, forward=inputs("x"), loss=loss),
        selector=selector,
        scoring=Scoring(batch_size=100),
        inputs=("x",),
        seed=4,
    )
    stream, model = LocalStream(spec), build()
    learner = Learner(spec.task, model, torch.optim.SGD(model.parameters(), lr))
    if state is not None:
        stream.load_state_dict(state["stream"])
        model.load_state_dict(state["model"])
    steps = []
    for batch in stream.iter_batches(
        batch_size=batch_size, epochs=epochs, model=model, max_steps=max_steps
    ):
        learner.step(stream, batch, 1.0)
        steps.append({name: column.numpy().copy() for name, column in batch.items()})
    return stream, steps, source.rows_read, forwards, model


def test_epochs_in_between_read_and_score_only_what_is_trained_and_leave_no_backlog() -> None:
    """The original does 20 of 50 steps in such an epoch, and then trains everything."""
    stream, steps, rows_read, forwards, _ = run(StaleSelectiveBackprop(beta=1), epochs=3)
    trained = np.concatenate([step[ID][step["weight"] > 0] for step in steps])
    per_epoch = {e: t["num_selected"] for e, t in stream.progress()["epochs"].items()}
    assert sum(per_epoch.values()) == len(trained) == stream.num_backpropped
    assert forwards["score"] == stream.num_scored == 1200
    assert rows_read == 1200 + per_epoch[1] + per_epoch[2]
    assert forwards["train"] == len(steps) * 16
    assert len(steps) == -(-len(trained) // 16)  # steps = selected / B
    assert 0.4 < per_epoch[1] / 1200 < 0.6
    first = LocalStream(stream.spec)  # a scoring-free epoch ends with less than a batch waiting
    assert first.num_steps == 0


def test_each_trained_row_was_drawn_by_the_rank_of_its_last_loss() -> None:
    """The second epoch of a naive Stale-SB, from the records of the first."""
    stream, steps, *_ = run(StaleSelectiveBackprop(beta=1), epochs=2)
    rows = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    epoch = stream.plan.epoch_of(rows["pool"])
    trained_at = np.repeat(np.arange(len(steps)), 16)
    first = np.flatnonzero(epoch == 0)
    scored = {
        i: (loss, step)
        for i, loss, step in zip(
            rows[ID][first], rows[LOSS][first], rows[WEIGHTS_STEP][first], strict=True
        )
    }
    older = {
        i
        for i, row in zip(rows[ID][first], first, strict=True)
        if trained_at[row] > rows[WEIGHTS_STEP][row]
    }
    known = stream.history.lookup(np.array(sorted(scored)))
    assert (known.weights_step == [scored[i][1] for i in known.id.tolist()]).all()
    drawn = (epoch == 1) & (rows["weight"] > 0)
    draws = Draws(seed=4, epoch=1).uniform(rows[ID][drawn])
    assert (draws < rows[PROBABILITY][drawn]).all()
    last = dict(zip(rows[ID][drawn], rows[LOSS][drawn], strict=True))
    twice = older & last.keys()
    changed = [i for i in twice if last[i] != scored[i][0]]
    assert len(twice) > 100
    assert len(changed) > len(twice) - 16  # the last loss is the training step's, once it was done
    same = (scored.keys() - older) & last.keys()  # trained with the weights that scored them
    assert [last[i] for i in same] == pytest.approx([scored[i][0] for i in same], rel=1e-5)


def test_refreshing_every_epoch_is_selective_backprop_to_the_bit() -> None:
    stale = run(StaleSelectiveBackprop(beta=2, refresh_every=1), epochs=3)
    plain = run(SelectiveBackprop(beta=2), epochs=3)
    for ours, theirs in zip(stale[1], plain[1], strict=True):
        for name in (ID, LOSS, PROBABILITY, WEIGHTS_STEP):
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("at", [20, 41, 60, 75, 90])
def test_a_run_that_goes_on_in_any_epoch_equals_the_uninterrupted_one(staggered, at) -> None:
    """Batches of 20 divide pools of 100 where all rows are kept: nothing waits at the cut."""
    selector = StaleSelectiveBackprop(min_probability=1.0, staggered=staggered)
    whole = run(selector, epochs=3, batch_size=10, count=400)
    at = at - at % 10
    first = run(selector, epochs=3, batch_size=10, count=400, max_steps=at)
    state = {"stream": first[0].state_dict(), "model": first[4].state_dict()}
    rest = run(selector, epochs=3, batch_size=10, count=400, state=state)
    for ours, theirs in zip(first[1] + rest[1], whole[1], strict=True):
        for name in (ID, LOSS, PROBABILITY, WEIGHTS_STEP):
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert rest[0].num_scored == whole[0].num_scored
    for name, value in whole[4].state_dict().items():
        assert torch.equal(value, rest[4].state_dict()[name])
