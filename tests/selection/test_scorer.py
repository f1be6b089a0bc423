"""A pool through the scorer: what is selected, what is told, and in which order."""

import numpy as np
import pytest
import torch
from torch import nn

from raysb.history.ring import LossRing
from raysb.history.table import LossTable
from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits
from raysb.scoring.records import Grant, Refusal
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop
from raysb.selection.scorer import PoolScoring, Scorer
from raysb.task import Task, inputs


class Echo(nn.Module):
    """The loss of a row is a number that it carries, times the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.scale


TASK = Task(
    model=Echo,
    forward=inputs("x"),
    loss=lambda outputs, batch: outputs,
    correct=lambda outputs, batch: outputs < 1,
    extra={"twice": lambda outputs, batch: outputs * 2},
)


def pool(rows=200, number=3, nan=()):
    rng = np.random.default_rng(number)
    x = rng.exponential(size=rows).astype(np.float32)
    x[list(nan)] = np.nan
    ids = rng.permutation(10 * rows)[:rows]
    return {"x": x, ID: ids, POOL: np.full(rows, number), "name": np.array(["a"] * rows)}


def scored(batch, selector=None, **args):
    args = {"window": np.empty(0, np.float32), "weights_step": 7, "epoch": 2, "seed": 5} | args
    settings = {name: args.pop(name) for name in ("seed", "by", "adjustments") if name in args}
    scoring = PoolScoring(task=TASK, selector=selector or SelectiveBackprop(), **settings)
    return scoring(Echo(), batch, **args)


def test_rows_are_chosen_by_the_rank_of_their_loss_and_the_draw_of_their_id() -> None:
    batch, window = pool(), np.random.default_rng(0).exponential(size=900).astype(np.float32)
    result = scored(batch, SelectiveBackprop(beta=2, history=1024), window=window)
    population = [*window.tolist(), *batch["x"].tolist()][-1024:]
    draws = Draws(seed=5, epoch=2).uniform(batch[ID])
    expected = []
    for row, loss in enumerate(batch["x"].tolist()):
        less = sum(other < loss for other in population)
        equal = sum(other == loss for other in population)
        chance = ((less + equal / 2) / len(population)) ** 2
        if draws[row] < chance:
            expected.append((int(batch[ID][row]), np.float32(chance)))
    assert result.rows[ID].tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(result.rows[PROBABILITY], [p for _, p in expected], rtol=1e-6)
    assert (result.rows[WEIGHT] == 1).all()
    assert (result.rows[WEIGHTS_STEP] == 7).all()
    assert set(result.rows["name"]) == {"a"}
    np.testing.assert_array_equal(result.rows[LOSS], result.rows["x"])
    np.testing.assert_array_equal(result.rows["twice"], 2 * result.rows["x"])


def test_what_is_told_is_of_the_whole_pool_in_row_order_without_what_is_not_finite() -> None:
    batch = pool(nan=(4, 50))
    result = scored(batch)
    told, record = result.scores, result.record
    finite = np.isfinite(batch["x"])
    np.testing.assert_array_equal(told.ids, batch[ID])
    np.testing.assert_array_equal(told.losses, batch["x"])
    np.testing.assert_array_equal(told.ids[told.selected], result.rows[ID])
    np.testing.assert_array_equal(record.losses, batch["x"][finite])
    assert (told.pool, told.epoch, told.weights_step) == (3, 2, 7)
    assert (record.pool, record.epoch, record.num_rows) == (3, 2, 200)
    assert record.num_selected == len(result.rows[ID]) == told.selected.sum()
    assert record.num_correct == (batch["x"] < 1).sum()
    assert set(record.nonfinite) == set(batch[ID][[4, 50]])


@pytest.mark.parametrize(
    "selector", [SelectiveBackprop(min_probability=1.0), SelectiveBackprop(warmup_epochs=9)]
)
def test_losses_that_are_not_finite_are_never_selected_whatever_the_selector(selector) -> None:
    batch = pool(nan=range(0, 200, 3))
    result = scored(batch, selector)
    assert result.rows[ID].tolist() == batch[ID][np.isfinite(batch["x"])].tolist()
    nothing = scored(pool(nan=range(200)), selector)
    assert len(nothing.rows[ID]) == 0
    assert nothing.rows.keys() == result.rows.keys()
    assert nothing.record.num_selected == 0
    assert len(nothing.record.losses) == 0


def test_the_draw_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    chosen = [
        scored(pool(), **args).rows[ID].tolist()
        for args in ({}, {"weights_step": 99}, {"seed": 6}, {"epoch": 3})
    ]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2] != chosen[3] != chosen[0]


class Direct:
    """The ledger without an actor: a gate that is asked once."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def grant(self, generation, pool, rows):
        grant = self.ledger.grant(generation, pool, rows)
        return None if isinstance(grant, Refusal) else grant

    def scored(self, generation, record):
        self.ledger.scored(generation, record)


class Table:
    """The loss table as the scorer calls it."""

    def __init__(self) -> None:
        self.table = LossTable(0)

    def record(self, scores):
        self.table.record(
            scores.ids,
            scores.losses,
            correct=scores.correct,
            selected=scores.selected,
            weights_step=scores.weights_step,
            epoch=scores.epoch,
        )

    def flush(self):
        """All is there."""


def fetcher(model):
    """Weights travel as (step, scale)."""

    def fetch(weights):
        step, scale = weights
        with torch.no_grad():
            model.scale.fill_(scale)
        return step

    return fetch


def scorer(ledger, table, generation, gate=Direct, **settings):
    return Scorer(
        PoolScoring(task=TASK, selector=SelectiveBackprop(), seed=5, **settings),
        gate(ledger),
        table,
        fetcher,
        lambda pool: (pool // 2, 0, 200),
        generation=generation,
    )


def test_a_scorer_takes_the_grants_weights_and_window_and_reports_to_history_and_ledger() -> None:
    ledger, table = Ledger(ring=LossRing(300)), Table()
    g = ledger.open(Limits(global_batch=10), Cursor(), 9, 4, (4, 2.0))
    score_it = scorer(ledger, table, g)
    first = score_it(pool(number=2))
    assert set(first[WEIGHTS_STEP]) == {4}
    np.testing.assert_allclose(first[LOSS], 2 * first["x"])
    ledger.stepped(g, 5, 0, (5, 3.0))
    second = score_it(pool(number=3))
    assert set(second[WEIGHTS_STEP]) == {5}
    expected = np.concatenate([2 * pool(number=2)["x"], 3 * pool(number=3)["x"]])[-300:]
    np.testing.assert_allclose(ledger.ring.window(), expected)
    by_hand = scored(pool(number=3), window=2 * pool(number=2)["x"], epoch=1)
    assert by_hand.record.num_rows == ledger.totals.epochs[1].num_scored - 200
    known = table.table.lookup(pool(number=3)[ID])
    np.testing.assert_allclose(known.loss, 3 * pool(number=3)["x"])


def test_a_selector_is_shown_the_accuracy_that_came_with_the_grant() -> None:
    seen = []

    class Sees(SelectiveBackprop):
        def select(self, ids, scores, distribution, draws):
            seen.append(distribution.accuracy)
            return super().select(ids, scores, distribution, draws)

    class Knows(Direct):
        def grant(self, generation, pool, rows):
            known = {0: None, 1: 0.7}[pool]
            return super().grant(generation, pool, rows)._replace(accuracy=known)

    ledger = Ledger(ring=LossRing(300))
    g = ledger.open(Limits(global_batch=10), Cursor(), 9, 4, (4, 2.0))
    scoring = PoolScoring(task=TASK, selector=Sees(), seed=5)
    locate = {0: (0, 0, 200), 1: (0, 200, 400)}.__getitem__
    score_it = Scorer(scoring, Knows(ledger), Table(), fetcher, locate, generation=g)
    for number in (0, 1):
        score_it(pool(number=number))
    assert seen == [None, 0.7]


def test_the_ledger_counts_a_pool_when_the_history_has_it() -> None:
    """A checkpoint between the two would never know what was scored."""

    class Late(Table):
        def __init__(self):
            super().__init__()
            self.pending = []

        def record(self, scores):
            self.pending.append(scores)

        def flush(self):
            while self.pending:
                super().record(self.pending.pop())

    class Counts(Direct):
        def scored(self, generation, record):
            known.append(table.table.lookup(pool()[ID]).known.all())

    table, known, ledger = Late(), [], Ledger(ring=LossRing(300))
    g = ledger.open(Limits(global_batch=10), Cursor(), 9, 4, (4, 2.0))
    scorer(ledger, table, g, gate=Counts)(pool())
    assert known == [True]


def agreements(*granted, publish_every=5, **settings):
    """What a scorer reports of each pool, given (step, scale) of its weights; -1 is a reversal."""
    reported = []

    class Reports(Direct):
        def grant(self, generation, pool, rows):
            step, scale, *more = granted[pool]
            return Grant(step, np.empty(0, np.float32), (step, scale), *more)

        def scored(self, generation, record):
            reported.append(record.agreement)

    ledger = Ledger(ring=LossRing(300))
    generation = ledger.open(Limits(global_batch=10), Cursor(), 99, 0)
    settings = {"audit_every": 3, "publish_every": publish_every} | settings
    score_it = scorer(ledger, Table(), generation, gate=Reports, **settings)
    for number in range(len(granted)):
        score_it(pool(number=number))
    return [None if each is None else round(each.spearman, 6) for each in reported]


def test_a_stale_copy_is_audited_by_the_weights_that_replace_it() -> None:
    """Not before it was trained, nor while it stays; then at most once in `audit_every` pools."""
    weights = [(0, 1.0), (5, -1.0), (5, -1.0), (10, 2.0), (15, 3.0), (20, -3.0), (25, 1.0)]
    assert agreements(*weights) == [None, None, None, -1, None, None, -1]
    assert agreements(*weights, audit_every=1) == [None, None, None, -1, 1, -1, -1]


def test_what_is_replaced_every_step_or_has_fallen_back_is_no_stale_copy() -> None:
    weights = [(5, 1.0), (10, -1.0), (15, 1.0)]
    assert agreements(*weights, publish_every=1) == [None] * 3
    assert agreements(*((*each, 0, True) for each in weights)) == [None] * 3


def test_a_stale_copy_in_low_precision_is_compared_as_it_scores_with_the_live_model() -> None:
    """One audit of both, and none of the precision alone, of pool 0 say."""
    weights = [(5, 1.0), (10, 1.0), (15, -1.0)]
    assert agreements(*weights, dtype="bfloat16", audit_every=1) == [None, 1, -1]


def test_a_scorer_that_is_refused_gives_no_rows_and_reports_nothing() -> None:
    ledger, table = Ledger(ring=LossRing(300)), Table()
    old = ledger.open(Limits(global_batch=10), Cursor(), 9, 0, (0, 1.0))
    score_it = scorer(ledger, table, old)
    ledger.open(Limits(global_batch=10), Cursor(), 9, 0, (0, 1.0))
    rows = score_it(pool())
    assert {len(column) for column in rows.values()} == {0}
    assert rows.keys() >= {ID, POOL, "x"}
    assert ledger.totals.epochs == {}
    assert len(score_it(rows)[ID]) == 0
