"""What a selector looks back at on Ray: made once an epoch, by whoever reads its first pool."""

from types import SimpleNamespace

import numpy as np
import pytest

from raysb.history.table import LossTable
from raysb.selection import BudgetedSelection, SelectiveBackprop
from raysb.source.plan import PoolPlan
from raysb.training.stages import Outlooks, outlook_name

PLAN = PoolPlan(num_rows=40, pool_rows=10, epochs=5)


class Board:
    """Named, versioned values, without an actor; asking for what is not there would wait."""

    def __init__(self):
        self.values = {}

    def version(self, name):
        return self.values.get(name, (-1, None))[0]

    def put(self, name, version, value):
        if self.version(name) <= version:
            self.values[name] = (version, value)

    def get(self, name, at_least=0):
        if self.version(name) < at_least:
            raise TimeoutError(name)
        return self.values[name]


def parts(selector=None):
    table, board = LossTable(), Board()
    handle = SimpleNamespace(name="train", board=board, history=table)
    selector = selector or BudgetedSelection(rows_per_epoch=3)
    return table, board, lambda generation=1: Outlooks(handle, PLAN, selector, generation)


def weights(outlook):
    return outlook.columns["weight"].tolist()


def test_the_reader_of_the_first_pool_makes_it_and_all_others_find_the_same():
    table, _, make = parts()
    table.record_backward(np.arange(40), np.arange(40, dtype=np.float32), 1)
    with pytest.raises(TimeoutError):
        make().of(5)  # epoch 1 is not begun
    first = make()
    made = first.of(4)
    table.record_backward(np.arange(40), np.ones(40, np.float32), 2)
    assert weights(make().of(5)) == weights(made)
    assert weights(make().of(4)) == weights(made)  # a replay of the first pool too
    assert first.of(7) is made
    assert weights(make().of(8)) != weights(made)  # the next epoch looks anew


def test_two_epochs_are_held_at_a_time():
    _, board, make = parts()
    for epoch in range(5):
        make().of(epoch * PLAN.pools_per_epoch)
    assert sorted(version for version, _ in board.values.values()) == [3, 4]


def test_a_worker_group_that_begins_anew_sees_nothing_of_the_one_before():
    table, _, make = parts()
    for epoch in range(4):
        table.record_backward(np.arange(40), np.full(40, epoch + 1, np.float32), epoch)
        make(1).of(epoch * PLAN.pools_per_epoch)
    assert make(2).of(0) is None  # the first epoch is trained whole, as it was
    assert outlook_name("train", 1, 3) != outlook_name("train", 2, 3)


def test_a_selector_that_does_not_look_back_asks_nobody():
    _, board, make = parts(SelectiveBackprop())
    assert make().of(5) is None
    assert not board.values
