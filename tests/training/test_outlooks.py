"""What a selector looks back at on Ray: made once an epoch, by whoever reads its first pool."""

from types import SimpleNamespace

import numpy as np
import pytest

from raysb.history.table import LossTable
from raysb.selection import BudgetedSelection, SelectiveBackprop
from raysb.source.plan import PoolPlan
from raysb.training.stages import Outlooks, outlook_name
from raysb.training.stream import RayStream

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

    def forget(self, prefix):
        self.values = {k: v for k, v in self.values.items() if not k.startswith(prefix)}

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


def a_stream(board, generation=1):
    """Worker 0's end of a stream, of which only the outlooks are asked."""
    stream = RayStream.__new__(RayStream)
    stream.spec = SimpleNamespace(selector=BudgetedSelection(rows_per_epoch=3))
    stream._handle = SimpleNamespace(name="train", board=board, history=None)
    stream.plan, stream._generation, stream._outlooks_from = PLAN, generation, 0
    return stream


def test_those_of_all_epochs_that_are_not_trained_are_saved_however_many():
    table, board, make = parts()
    made = {}
    for epoch in range(4):
        table.record_backward(np.arange(40), np.full(40, epoch + 1, np.float32), epoch)
        table.record_backward(np.arange(epoch), np.full(epoch, 9, np.float32), epoch)
        made[epoch] = make().of(epoch * PLAN.pools_per_epoch)
    stream = a_stream(board)
    stream.epoch = 1
    stream._drop_outlooks()
    saved = stream._outlooks(PLAN.pools_per_epoch + 2)
    assert sorted(saved) == ["1", "2", "3"]

    other = Board()
    other.put(outlook_name("train", 1, 2), 2, "of a worker group that is gone")
    other.put("splits/train", 1, "kept")
    later = a_stream(other, generation=2)
    later._restore_past({"outlooks": saved})
    assert sorted(other.values) == [
        *(outlook_name("train", 2, epoch) for epoch in (1, 2, 3)),
        "splits/train",
    ]
    handle = SimpleNamespace(name="train", board=other, history=None)
    again = Outlooks(handle, PLAN, stream.spec.selector, 2)
    for epoch in (1, 2, 3):
        last = (epoch + 1) * PLAN.pools_per_epoch - 1
        assert weights(again.of(last)) == weights(made[epoch])


def test_what_is_trained_is_freed_and_whoever_asks_once_more_waits_for_nothing():
    table, board, make = parts()
    table.record_backward(np.arange(40), np.arange(40, dtype=np.float32), 1)
    for epoch in range(4):
        make().of(epoch * PLAN.pools_per_epoch)
    stream = a_stream(board)
    for stream.epoch in (0, 2, 3):
        stream._drop_outlooks()
    held = [value for _, value in board.values.values() if value is not None]
    assert len(held) == 1
    assert make().of(PLAN.pools_per_epoch) is None  # a replay, though it is the first pool
    assert weights(make().of(3 * PLAN.pools_per_epoch))


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
