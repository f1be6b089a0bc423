"""Batches of exactly B rows whose gradient is that of the mean over the rows of all workers."""

import numpy as np
import pytest
import torch
from torch import nn

from raysb.errors import ModelError, StreamOrderError
from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP, concatenate, take
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop, Uniform
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.batch_stream import BatchStream, Said
from raysb.training.exchange import Exchange
from raysb.training.spec import StreamSpec


def squares(outputs, batch):
    return (outputs.squeeze(1) - batch["y"]) ** 2


TASK = Task(model=lambda: nn.Linear(3, 1), forward=inputs("x"), loss=squares)


def rows(count, start=0, *, pool=0, weights=None, scored=True):
    rng = np.random.default_rng(start)
    columns = {
        "x": rng.normal(size=(count, 3)).astype(np.float32),
        "y": rng.normal(size=count).astype(np.float32),
        ID: np.arange(start, start + count),
        POOL: np.full(count, pool),
        PROBABILITY: np.full(count, 0.5, np.float32),
        WEIGHT: np.ones(count, np.float32) if weights is None else weights.astype(np.float32),
    }
    if scored:
        columns[LOSS] = np.zeros(count, np.float32)
        columns[WEIGHTS_STEP] = np.zeros(count, np.int64)
    return columns


class Given(BatchStream):
    """The rows that a test gives."""

    def __init__(self, blocks, *, selector=None, num_rows=100, pool_rows=10, **args):
        source = ArraySource({"x": np.zeros((num_rows, 3), np.float32), "y": np.zeros(num_rows)})
        super().__init__(
            StreamSpec(
                source=source,
                task=args.pop("task", TASK),
                selector=selector or SelectiveBackprop(),
                scoring=Scoring(batch_size=pool_rows),
            ),
            **{"check_first_batch": False} | args,
        )
        self.blocks, self.closed, self.published = blocks, 0, []

    def _open(self, batch_size, epochs, model):
        return self.spec.plan(batch_size, epochs)

    def _blocks(self):
        yield from self.blocks

    def _publish(self, model):
        self.published.append((self.num_steps, model))

    def _record_backward(self, ids, losses):
        pass

    def _close(self):
        self.closed += 1


def drive(stream, model=None, batch_size=8, epochs=2, **limits):
    """Step through a stream without an optimizer; the batches, and the gradient of each."""
    model = model or TASK.build(0)
    batches, grads = [], []
    args = {"batch_size": batch_size, "epochs": epochs, "model": model} | limits
    for batch in stream.iter_batches(**args):
        model.zero_grad()
        stream.reduce(squares(model(batch["x"]), batch), batch).backward()
        grads.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
        stream.step(model)
        batches.append(batch)
    return batches, grads


def gradient(model, data):
    """Of the weighted mean over given rows, by plain torch."""
    tensors = {k: torch.from_numpy(v) for k, v in data.items()}
    losses = squares(model(tensors["x"]), tensors) * tensors[WEIGHT]
    parts = torch.autograd.grad(losses.sum() / len(losses), list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def ids(batches):
    return [i for b in batches for i, w in zip(b[ID].tolist(), b[WEIGHT], strict=True) if w > 0]


def test_every_batch_has_b_rows_and_the_gradient_of_the_padded_one_is_that_of_its_true_rows() -> (
    None
):
    blocks = [rows(5), rows(13, 5), rows(0, 18), rows(3, 18)]  # 21 rows: 8, 8, 5
    batches, grads = drive(Given(blocks))
    assert [len(b[ID]) for b in batches] == [8, 8, 8]
    assert ids(batches) == list(range(21))
    whole = concatenate(blocks)
    for k, grad in enumerate(grads):
        expected = gradient(TASK.build(0), take(whole, slice(8 * k, min(8 * k + 8, 21))))
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-7)


def test_importance_weights_are_not_divided_by_their_sum() -> None:
    weights = np.random.default_rng(0).exponential(3, 8)
    block = rows(8, weights=weights)
    _, (grad,) = drive(Given([block]))
    torch.testing.assert_close(grad, gradient(TASK.build(0), block))


def test_a_row_of_weight_zero_changes_neither_the_gradient_nor_the_loss() -> None:
    block = rows(8)
    block["y"][6:] = 1e6
    block[WEIGHT][6:] = 0
    _, (grad,) = drive(Given([block]))
    clean = rows(8)
    clean[WEIGHT][6:] = 0
    torch.testing.assert_close(grad, gradient(TASK.build(0), clean), rtol=0, atol=0)
    block["y"][6:] = np.inf
    stream = Given([block])
    drive(stream)
    assert np.isfinite(stream.take_train_loss()[0])


@pytest.mark.parametrize(
    ("limit", "expected"), [(8, [8]), (11, [8, 3]), (16, [8, 8]), (99, [8, 8, 4])]
)
def test_max_backprops_ends_after_exactly_so_many_rows(limit, expected) -> None:
    blocks = [rows(7), rows(13, 7)]
    stream = Given(blocks)
    batches, grads = drive(stream, max_backprops=limit)
    assert [int((b[WEIGHT] > 0).sum()) for b in batches] == expected
    assert ids(batches) == list(range(sum(expected)))
    assert stream.num_backpropped == sum(expected)
    assert sum(map(len, stream.all_trained().values())) == sum(expected)
    start = sum(expected[:-1])
    last = take(concatenate(blocks), slice(start, start + expected[-1]))
    torch.testing.assert_close(grads[-1], gradient(TASK.build(0), last))
    assert stream.closed == 1


def test_ids_are_remembered_of_the_pools_that_are_not_all_trained() -> None:
    blocks = [rows(20), rows(20, 20), rows(20, 40)]
    for pool, block in enumerate(blocks):
        block[POOL][:] = pool
    for steps in range(1, 8):
        stream = Given(blocks)
        batches, _ = drive(stream, max_steps=steps)
        oldest = int(batches[-1][POOL][0])  # all before the last batch's first row are behind it
        of_pool = [(int(p), int(i)) for b in batches for p, i in zip(b[POOL], b[ID], strict=True)]
        expected = {(p, i) for p, i in of_pool if p >= oldest and i >= 0}
        found = {(p, int(i)) for p, ids in stream.all_trained().items() for i in ids}
        assert found == expected


def test_max_steps_and_stop_end_before_the_next_step_and_close_the_flow() -> None:
    stream = Given([rows(80)])
    assert len(drive(stream, max_steps=4)[0]) == 4
    assert (stream.num_steps, stream.closed) == (4, 1)
    stream = Given([rows(80)])
    drive(stream, stop=lambda: stream.num_steps == 3)
    assert (stream.num_steps, stream.num_backpropped, stream.closed) == (3, 24, 1)


def test_max_steps_counts_the_steps_before_a_checkpoint() -> None:
    stream = Given([rows(80)])
    stream.num_steps = 4
    assert len(drive(stream, max_steps=6)[0]) == 2


def test_without_a_single_row_there_is_no_step_and_all_epochs_are_over() -> None:
    stream = Given([])
    assert drive(stream) == ([], [])
    assert (stream.num_steps, stream.epoch, stream.fraction) == (0, 2, 1.0)
    assert stream.num_scored == 200


def test_calls_out_of_order_raise_in_place_of_a_hang() -> None:
    stream, model = Given([rows(80)]), TASK.build(0)
    losses = torch.zeros(8)
    with pytest.raises(StreamOrderError, match=r"reduce was called when stream\.next was"):
        stream.reduce(losses, {})
    batches = stream.iter_batches(batch_size=8, epochs=1, model=model)
    batch = next(batches)
    with pytest.raises(StreamOrderError, match=r"step was called when stream\.reduce was due"):
        stream.step(model)
    stream.reduce(losses, batch)
    with pytest.raises(StreamOrderError, match=r"reduce was called when stream\.step was due"):
        stream.reduce(losses, batch)
    with pytest.raises(StreamOrderError, match=r"before stream\.step"):
        next(batches)
    assert stream.closed == 1
    batches = Given([rows(80)]).iter_batches(batch_size=8, epochs=1, model=model)
    next(batches)
    with pytest.raises(StreamOrderError, match=r"before stream\.reduce"):
        next(batches)
    with pytest.raises(StreamOrderError, match="has not been started"):
        Given([])._plan()


def test_the_oldest_epoch_and_the_rows_scored_follow_the_newest_row_trained() -> None:
    """100 rows in pools of 10, two epochs; nothing of pools 4 to 11 is selected."""
    blocks = [rows(6, 10 * q, pool=q) for q in (*range(4), *range(12, 20))]
    stream, seen = Given(blocks), []
    for batch in stream.iter_batches(batch_size=8, epochs=2, model=TASK.build(0)):
        seen.append((stream.epoch, stream.num_scored))
        stream.reduce(torch.zeros(8), batch)
        stream.step(TASK.build(0))
    assert seen[:4] == [(0, 20), (0, 30), (0, 40), (1, 140)]
    assert seen[-1] == (1, 200)
    assert (stream.epoch, stream.num_scored) == (2, 200)


def test_the_fraction_starts_at_0_never_falls_and_is_below_1_while_rows_are_left() -> None:
    for selector, size in ((Uniform(), 32), (SelectiveBackprop(), 10)):
        blocks = [rows(size, size * q, pool=q, scored=False) for q in range(4)]
        stream = Given(blocks, selector=selector, num_rows=size * 4, pool_rows=size)
        fractions = []
        for batch in stream.iter_batches(batch_size=2, epochs=1, model=TASK.build(0)):
            fractions.append(stream.fraction)
            stream.reduce(torch.zeros(2), batch)
            stream.step(TASK.build(0))
        assert fractions[0] == 0
        assert fractions == sorted(fractions)
        assert fractions[-1] < 1, "the last pool would be trained at the schedule's end"
        assert stream.fraction == 1


def test_uniform_rows_are_not_counted_as_scored() -> None:
    stream = Given([rows(20, scored=False)], selector=Uniform())
    drive(stream)
    assert stream.num_scored == 0
    assert stream.mean_age() is None


def test_ages_are_counted_over_true_rows_at_the_time_of_their_step() -> None:
    block = rows(20)
    block[WEIGHTS_STEP][:] = np.minimum(np.arange(20) // 8, 1)
    stream = Given([block])
    drive(stream)
    assert stream.max_age == 1
    assert stream.mean_age() == pytest.approx(4 / 20)


def test_the_audit_sees_each_true_row_once_with_its_step() -> None:
    seen = []
    stream = Given([rows(21)], on_step=lambda *noted: seen.append(noted))
    drive(stream)
    assert [(step, rank, batch[ID].tolist()) for step, rank, batch in seen] == [
        (1, 0, list(range(8))),
        (2, 0, list(range(8, 16))),
        (3, 0, list(range(16, 21))),
    ]
    assert [step for step, _ in stream.published] == [1, 2, 3]


def test_the_train_loss_is_summed_over_true_rows_and_starts_anew_when_taken() -> None:
    stream, model = Given([rows(21)]), TASK.build(0)
    drive(stream, model)
    data = {k: torch.from_numpy(v) for k, v in rows(21).items()}
    total, count = stream.take_train_loss()
    assert count == 21
    assert total == pytest.approx(squares(model(data["x"]), data).sum().item(), rel=1e-5)
    assert stream.take_train_loss() == (0.0, 0)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_sums_of_all_workers_go_on_whatever_their_number_is_after_a_checkpoint(workers) -> None:
    """Three workers wrote it: no row's loss or age is lost, and none counts twice.

    In checkpoints of before, each worker's ages are its own.
    """
    written = [[1.5, 4, 3, 2], [20.25, 5, 30, 10], [300.0, 6, 0, 8]]
    counters = {"num_steps": 3, "num_backpropped": 15, "num_scored": 40, "max_age": 5}
    found = []
    for rank in range(workers):
        stream = Given([])
        made_with = stream.spec.identity(8)
        stream.load_counters({**counters, "made_with": made_with, "sums": written})
        stream.exchange.rank, stream.exchange.world_size = rank, workers
        assert drive(stream, max_steps=3) == ([], [])
        assert stream.mean_age() == 33 / 20
        [[_, rows_before, ages, aged]] = stream.counters()["sums"]
        found.append([*stream.take_train_loss(), ages, aged])
        assert found[-1][1] == rows_before
    assert (
        np.sum(found, axis=0).tolist() == np.sum(written, axis=0).tolist() == [321.75, 15, 33, 20]
    )
    if workers == 3:
        assert [each[:2] for each in found] == [each[:2] for each in written]


def with_losses(block, model, off=0.0):
    with torch.no_grad():
        tensors = {k: torch.from_numpy(v) for k, v in block.items()}
        block[LOSS] = (squares(model(tensors["x"]), tensors) + off).numpy()
    return block


def test_a_scorers_loss_that_is_not_the_workers_is_refused_before_the_first_step() -> None:
    model = TASK.build(0)
    drive(Given([with_losses(rows(16), model)], check_first_batch=True), model)
    stream = Given([with_losses(rows(16), model, off=0.01)], check_first_batch=True)
    with pytest.raises(ModelError, match="at the same weights") as caught:
        drive(stream, model)
    assert "Likely reasons" in str(caught.value)
    assert (stream.num_steps, stream.closed) == (0, 1)
    stale = with_losses(rows(16), model, off=9)
    stale[WEIGHTS_STEP][:] = -1
    drive(Given([stale], check_first_batch=True), model)  # of other weights: nothing to compare


def test_the_comparison_sees_only_true_rows() -> None:
    model = TASK.build(0)
    drive(Given([with_losses(rows(3), model)], check_first_batch=True), model)


def test_rows_that_were_trained_without_a_score_are_not_compared() -> None:
    model = TASK.build(0)
    block = with_losses(rows(16), model)
    block[LOSS][::2] = np.nan
    drive(Given([block], check_first_batch=True), model)
    block[LOSS][1] += 0.01
    with pytest.raises(ModelError, match="at the same weights"):
        drive(Given([block], check_first_batch=True), model)


SCRIPT = """
from raysb.schema import *
from raysb.schema import concatenate, take
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.batch_stream import BatchStream
from raysb.training.exchange import Exchange
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec

B = 8

def squares(outputs, batch):
    return (outputs.squeeze(1) - batch["y"]) ** 2

def rows(count, start, dtype):
    rng = np.random.default_rng(start)
    return {"x": rng.normal(size=(count, 3)).astype(dtype),
            "y": rng.normal(size=count).astype(dtype), ID: np.arange(start, start + count),
            POOL: np.full(count, start // 10),
            LOSS: np.zeros(count, np.float32),
            WEIGHTS_STEP: np.full(count, -(start // 50)) - np.arange(count) % 8,
            PROBABILITY: np.ones(count, np.float32),
            WEIGHT: rng.exponential(size=count).astype(np.float32)}

def net(dtype):
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).to(getattr(torch, dtype))

class Given(BatchStream):
    def __init__(self, blocks, dtype):
        self.ages = []  # of this worker's rows
        task = Task(model=lambda: net(dtype), forward=inputs("x"), loss=squares)
        source = ArraySource({"x": np.zeros((200, 3), dtype), "y": np.zeros(200, dtype)})
        super().__init__(StreamSpec(source=source, task=task, selector=SelectiveBackprop(),
                                    scoring=Scoring(batch_size=10)), check_first_batch=False)
        self.blocks = blocks
        self._on_step = lambda step, rank, batch: self.ages.extend(
            (step - 1 - batch[WEIGHTS_STEP]).tolist())
    def _open(self, batch_size, epochs, model):
        self.exchange = Exchange()
        return self.spec.plan(batch_size, epochs)
    def _blocks(self):
        yield from self.blocks
    def _publish(self, model): pass
    def _record_backward(self, ids, losses):
        pass

    def _close(self): pass

def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=.05, momentum=.9)

def parameters(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double().tolist()

def two_workers(blocks, dtype, **limits):
    stream = Given(blocks[rank], dtype)
    model = stream.task.build(0)
    learner = Learner(stream.task, nn.parallel.DistributedDataParallel(model), optimizer(model))
    sizes, shapes, epochs, scored = [], set(), [], []
    for batch in stream.iter_batches(batch_size=B, epochs=2, model=learner.model, **limits):
        epochs.append(stream.epoch)
        scored.append(stream.num_scored)
        learner.step(stream, batch, 1.0)
        sizes.append(stream._rows)
        shapes.add(len(batch["x"]))
    loss, count = stream.exchange.sum(np.array(stream.take_train_loss()))
    return {"parameters": parameters(model), "sizes": sizes, "shapes": sorted(shapes),
            "trained": {str(k): v.tolist() for k, v in sorted(stream.all_trained().items())},
            "backpropped": stream.num_backpropped, "epochs": [*epochs, stream.epoch],
            "count": count, "loss": loss, "scored": scored, "own_ages": stream.ages,
            "ages": [stream.max_age, stream.mean_age()], "counters": stream.counters()}

def one_process(blocks, dtype, steps=10**9, rows_left=10**9):
    torch.manual_seed(0)
    model = net(dtype)
    step = optimizer(model)
    wholes = [concatenate([b for b in own if len(b[ID])]) if any(len(b[ID]) for b in own) else None
              for own in blocks]
    for k in range(steps):
        parts = [take(w, slice(k * B, k * B + B)) for w in wholes if w is not None]
        batch = take(concatenate(parts), slice(0, rows_left))
        n = len(batch[ID])
        if n == 0:
            break
        rows_left -= n
        t = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in batch.items()}
        loss = (squares(model(t["x"]), t) * t[WEIGHT]).sum() / n
        step.zero_grad(); loss.backward(); step.step()
    return parameters(model)

def blocks(dtype, *counts):
    return [[rows(c, 200 * r + 50 * i, dtype) for i, c in enumerate(own)]
            for r, own in enumerate(counts)]

results = {}
uneven = blocks("float64", (40, 33, 40, 47), (13, 0, 40, 31))   # 160 and 84 rows: 20 steps
results["uneven"] = two_workers(uneven, "float64"), one_process(uneven, "float64")
empty = blocks("float64", (40, 40, 40, 37), ())
results["empty"] = two_workers(empty, "float64"), one_process(empty, "float64")
reverse = blocks("float64", (), (16, 5))
results["reverse"] = two_workers(reverse, "float64"), one_process(reverse, "float64")
single = blocks("float32", (8,), (5,))
results["single"] = two_workers(single, "float32"), one_process(single, "float32")
results["limit"] = (two_workers(uneven, "float64", max_backprops=77),
                    one_process(uneven, "float64", rows_left=77))
asked = []
def stop():
    asked.append(rank)
    return len(asked) == 4
results["stop"] = (two_workers(uneven, "float64", stop=stop),
                   one_process(uneven, "float64", steps=3))
found = results | {"asked": asked}
"""


@pytest.fixture(scope="module")
def two(gloo):
    """What two workers have left, by rank."""
    return gloo(SCRIPT, workers=2)


@pytest.mark.gloo
@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        ("uneven", [[8] * 20, [8] * 10 + [4] + [0] * 9]),
        ("empty", [[8] * 19 + [5], [0] * 20]),
        ("reverse", [[0] * 3, [8, 8, 5]]),
        ("single", [[8], [5]]),
        ("limit", [[8, 8, 8, 8, 8], [8, 8, 8, 8, 5]]),
        ("stop", [[8] * 3, [8] * 3]),
    ],
)
def test_two_workers_equal_one_process_with_the_same_global_batches(two, case, sizes) -> None:
    tolerance = 1e-6 if case == "single" else 1e-10
    for rank, results in enumerate(two):
        distributed, expected = results[case]
        np.testing.assert_allclose(distributed["parameters"], expected, rtol=0, atol=tolerance)
        assert distributed["sizes"] == sizes[rank]
        assert distributed["shapes"] == [8]
        assert distributed["backpropped"] == distributed["count"] == sum(map(sum, sizes))
        ids = [i for pool in distributed["trained"].values() for i in pool]
        assert len(ids) == len(set(ids)) <= sum(map(sum, sizes))
    shared = ("trained", "epochs", "loss", "parameters")
    assert all(two[0][case][0][key] == two[1][case][0][key] for key in shared)


@pytest.mark.gloo
@pytest.mark.parametrize("case", ["uneven", "empty", "reverse", "single", "limit", "stop"])
def test_ages_are_those_of_the_rows_that_all_workers_have_trained(two, case) -> None:
    """Worker 1's rows are older; of the last step of `limit` it trains only some."""
    ages = np.concatenate([results[case][0]["own_ages"] for results in two])
    for results in two:
        found = results[case][0]
        assert found["ages"] == [ages.max(), pytest.approx(ages.mean(), rel=1e-12)]
        assert found["counters"]["max_age"] == ages.max()
        saved = np.sum(found["counters"]["sums"], axis=0)[2:]
        assert saved.tolist() == [ages.sum(), len(ages)]


@pytest.mark.gloo
def test_the_epoch_is_the_oldest_that_some_worker_has_rows_of(two) -> None:
    """Worker 0 has the rows of epoch 0 and worker 1 those of epoch 1, of two."""
    assert two[0]["uneven"][0]["epochs"] == [0] * 20 + [2]
    assert two[0]["reverse"][0]["epochs"] == [1] * 3 + [2]
    assert two[0]["stop"][0]["epochs"] == [0] * 4


@pytest.mark.gloo
def test_rows_are_counted_as_scored_up_to_the_newest_that_any_worker_has(two) -> None:
    """Worker 1's batches end in pools 20, 20 and 25 of 10 rows each; worker 0 has no rows."""
    for rank in (0, 1):
        assert two[rank]["reverse"][0]["scored"] == [210, 210, 260]
        # worker 0 begins in pool 0 while worker 1 is already in pool 20
        assert two[rank]["uneven"][0]["scored"][0] == 210


@pytest.mark.gloo
def test_only_worker_0_is_asked_whether_to_stop(two) -> None:
    assert two[0]["asked"] == [0] * 4
    assert two[1]["asked"] == []


class WithAnother(Exchange):
    """Beside a worker that has the same rows, and has waited as told for each step."""

    def __init__(self, waits):
        super().__init__(alone=True)
        self.world_size, self.waits, self.mine = 2, list(waits), []

    def gather(self, numbers):
        said = Said(*numbers)
        self.mine.append(said.waited_s)
        return np.array([said, said._replace(waited_s=self.waits[len(self.mine) - 1])])


def test_a_step_has_waited_as_long_as_the_worker_that_waited_longest() -> None:
    stream = Given([rows(8, 8 * i) for i in range(4)])
    stream.exchange = WithAnother([0.0, 5.0, 5.0, 9.0, 9.0])
    drive(stream)
    (first, *_), mine = stream.exchange.mine, stream.wait_seconds
    assert mine < 1.0
    # its own first wait, then 5 and 4 s of the other, then whatever is longer, for it waits no more
    assert stream.starved_seconds == pytest.approx(first + 5.0 + 4.0, abs=mine)
    alone = Given([rows(8, 8 * i) for i in range(4)])
    drive(alone)
    assert 0 < alone.starved_seconds <= alone.wait_seconds
