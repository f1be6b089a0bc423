"""Shards behind actors answer like one table, whatever their number, and survive a restart."""

import os
import pickle
import signal

import numpy as np
import pytest
import ray

from raysb.history.index import MAX_ROWS
from raysb.history.shards import LossHistory
from raysb.history.table import LossTable
from raysb.schema import PoolScores

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def pool(number: int, epoch: int) -> PoolScores:
    draw = np.random.default_rng([number, epoch])
    losses = draw.exponential(size=64).astype(np.float32)
    losses[::17] = np.nan
    ids = (np.arange(64) + number * 64) * 2**33 - 5
    correct = draw.integers(0, 2, 64, np.uint8)
    return PoolScores(number, epoch, 3 * epoch, ids, losses, correct, losses > 1)


def record(table: LossTable, scores: PoolScores) -> None:
    table.record(
        scores.ids,
        scores.losses,
        correct=scores.correct,
        selected=scores.selected,
        weights_step=scores.weights_step,
        epoch=scores.epoch,
    )


def assert_alike(history: LossHistory, table: LossTable) -> None:
    for ours, theirs in (
        (history.export(), table.export()),
        (history.state_dict(), table.state_dict()),
    ):
        assert ours.keys() == theirs.keys()
        for name, column in theirs.items():
            np.testing.assert_array_equal(ours[name], column, err_msg=name)
    asked = np.concatenate([table.ids()[::-7], [12345, table.ids()[0]]])
    for ours, theirs in zip(history.lookup(asked), table.lookup(asked), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_1_2_4_and_8_shards_answer_like_one_table() -> None:
    table = LossTable()
    histories = [LossHistory.start(shards, capacity=640) for shards in (1, 2, 4, 8)]
    for epoch in range(3):
        for number in range(10):
            for each in (*histories, pickle.loads(pickle.dumps(histories[0]))):  # one replays
                each.record(pool(number, epoch))
            record(table, pool(number, epoch))
    ids, losses = pool(4, 2).ids, np.full(64, 0.25, np.float32)
    steps = np.arange(len(ids)) // 8  # some are older than the scores, of step 6
    table.record_backward(ids, losses, steps)
    for history in histories:
        history.record_backward(ids, losses, steps)
    for history in histories:
        assert_alike(history, table)
        assert history.metrics()["num_ids"] == len(table)
    two, eight = histories[1], histories[3]
    two.load_state_dict(eight.state_dict())
    eight.load_state_dict(table.state_dict())
    for history in (two, eight):
        history.record(pool(0, 3))
    record(table, pool(0, 3))
    assert_alike(two, table)
    assert_alike(eight, table)


def test_the_actor_loads_no_torch_and_comes_back_when_it_is_killed() -> None:
    history = LossHistory.start()
    history.record(pool(0, 0))
    history.flush()
    state = history.state_dict()
    (shard,) = history._shards

    def look(table: LossTable) -> tuple[bool, int]:
        import sys

        return "torch" in sys.modules, os.getpid()

    has_torch, pid = ray.get(shard.__ray_call__.remote(look))
    assert not has_torch
    os.kill(pid, signal.SIGKILL)
    history.load_state_dict(state)
    table = LossTable()
    record(table, pool(0, 0))
    assert_alike(history, table)


def test_a_shard_that_died_knows_again_its_share_of_the_last_snapshot() -> None:
    table = LossTable()
    record(table, pool(0, 0))
    known = table.state_dict()
    history = LossHistory.start(2, snapshot=lambda: known)
    history.record(pool(1, 0))
    history.flush()
    pids = ray.get([s.__ray_call__.remote(lambda _: os.getpid()) for s in history._shards])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert_alike(history, table)


def test_what_a_shard_refuses_surfaces_at_the_latest_when_flushed() -> None:
    history = LossHistory.start()
    history.record(pool(0, 0)._replace(epoch=-1))
    with pytest.raises(ValueError, match="epoch=-1"):
        history.flush()


def test_a_history_without_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="num_shards=0"):
        LossHistory.start(num_shards=0)


@pytest.mark.parametrize(("shards", "needed"), [(1, 3), (2, 3)])
def test_more_ids_than_the_shards_hold_are_refused_with_the_number_that_do(shards, needed) -> None:
    ids = 2 * MAX_ROWS + 1
    with pytest.raises(ValueError, match=rf"num_shards={shards}: of 2,147,483,649 .* to {needed}$"):
        LossHistory.start(shards, capacity=ids)
    share = ids / needed
    assert share + 4 * share**0.5 <= MAX_ROWS  # what a shard reserves
