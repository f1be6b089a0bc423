"""The gradient of a step is that of one big batch, however its rows are split."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from raysb.errors import ModelError, StreamOrderError
from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.batch_stream import BatchStream
from raysb.training.learner import Learner
from raysb.training.parallel import Parallel, micro_batches, parallelize
from raysb.training.settings import Training
from raysb.training.spec import StreamSpec
from raysb.training.staged import place, stages

B = 8
CPU = torch.device("cpu")


def squares(outputs, batch):
    return (outputs.squeeze(1) - batch["y"]) ** 2


def build():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    return net.double()


def rows(count, start=0):
    rng = np.random.default_rng(start)
    return {
        "x": rng.normal(size=(count, 3)),
        "y": rng.normal(size=count),
        ID: np.arange(start, start + count),
        POOL: np.full(count, start // 10),
        LOSS: np.zeros(count, np.float32),
        WEIGHTS_STEP: np.zeros(count, np.int64),
        PROBABILITY: np.ones(count, np.float32),
        WEIGHT: rng.exponential(2, count).astype(np.float32),
    }


class Together:
    """An exchange between threads."""

    def __init__(self, world_size):
        self.world_size = world_size
        self.barrier = threading.Barrier(world_size, timeout=30)
        self.slots = [None] * world_size

    def of(self, rank):
        exchange = Together.__new__(Together)
        exchange.__dict__ = self.__dict__ | {"rank": rank}
        return exchange

    def gather(self, numbers):
        self.slots[self.rank] = numbers
        self.barrier.wait()
        everyone = np.stack(self.slots)
        self.barrier.wait()
        return everyone

    def sum(self, numbers):
        return self.gather(numbers).sum(axis=0)


class Given(BatchStream):
    def __init__(self, blocks, exchange=None, selector=None):
        source = ArraySource({"x": np.zeros((400, 3)), "y": np.zeros(400)})
        super().__init__(
            StreamSpec(
                source=source,
                task=Task(model=build, forward=inputs("x"), loss=squares),
                selector=selector or SelectiveBackprop(),
                scoring=Scoring(batch_size=10),
            ),
            check_first_batch=False,
        )
        self.blocks = blocks
        if exchange is not None:
            self.exchange = exchange
        self.recorded = []

    def _open(self, batch_size, epochs, model):
        return self.spec.plan(batch_size, epochs)

    def _blocks(self):
        yield from self.blocks

    def _publish(self, model):
        pass

    def _record_backward(self, ids, losses):
        self.recorded.append((ids.copy(), losses.copy()))

    def _close(self):
        pass


class Noting(torch.optim.SGD):
    """Changes nothing; keeps the gradient of every step."""

    def __init__(self, model):
        super().__init__(model.parameters(), lr=0.0)
        self.model, self.grads = model, []

    def step(self, closure=None):
        self.grads.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()]))


def train(stream, model, exchange, found, **options):
    learner = Learner(stream.task, model, optimizer := Noting(model), **options)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=model):
        learner.step(stream, batch, 1.0)
    found[exchange.rank] = optimizer.grads


def together(split, **options):
    """The mean over workers of their gradients, as DDP takes it, step by step."""
    world, threads, found = Together(len(split)), [], {}
    for rank, counts in enumerate(split):
        blocks = [rows(c, 100 * rank + 25 * i) for i, c in enumerate(counts)]
        exchange = world.of(rank)
        stream = Given(blocks, exchange)
        # built here: the generator of initial weights is one for all threads
        args = (stream, stream.task.build(0), exchange, found)
        threads.append(threading.Thread(target=train, args=args, kwargs=options))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({len(grads) for grads in found.values()}) == 1, "all take equally many steps"
    return [torch.stack(step).mean(dim=0) for step in zip(*found.values(), strict=True)]


def at_once(split, by):
    """Of one process that has all workers' rows of a step as one batch, by plain torch."""
    wholes = []
    for rank, counts in enumerate(split):
        blocks = [rows(c, 100 * rank + 25 * i) for i, c in enumerate(counts)]
        wholes.append({k: np.concatenate([b[k] for b in blocks]) for k in ("x", "y", WEIGHT)})
    torch.manual_seed(0)
    model, grads = build(), []
    for k in range(-(-max(len(w["y"]) for w in wholes) // B)):
        t = {
            name: torch.from_numpy(np.concatenate([w[name][k * B : k * B + B] for w in wholes]))
            for name in ("x", "y", WEIGHT)
        }
        divisor = {"rows": len(t["y"]), "weights": float(t[WEIGHT].double().sum())}[by]
        loss = (squares(model(t["x"]), t) * t[WEIGHT]).sum() / divisor
        parts = torch.autograd.grad(loss, list(model.parameters()))
        grads.append(torch.cat([part.flatten() for part in parts]))
    return grads


@settings(max_examples=40, deadline=None)
@given(
    split=st.lists(
        st.lists(st.integers(0, 25), min_size=1, max_size=3), min_size=1, max_size=4
    ).filter(lambda split: sum(map(sum, split))),
    accumulate=st.sampled_from([1, 2, 4, 8]),
    normalize=st.sampled_from(["rows", "weights"]),
)
def test_any_split_over_workers_and_micro_batches_gives_the_gradient_of_one_big_batch(
    split, accumulate, normalize
) -> None:
    """Unequal and empty shares, padded steps and importance weights included."""
    found = together(split, accumulate=accumulate, normalize=normalize)
    expected = at_once(split, normalize)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_losses_of_micro_batches_are_recorded_once_each_for_the_rows_they_are_of() -> None:
    from raysb.selection import InfoBatch

    stream = Given([rows(21)], selector=InfoBatch())
    model = stream.task.build(0)
    learner = Learner(stream.task, model, Noting(model), accumulate=4)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=model):
        learner.step(stream, batch, 1.0)
    ids = np.concatenate([ids for ids, _ in stream.recorded])
    losses = np.concatenate([losses for _, losses in stream.recorded])
    assert ids.tolist() == list(range(21))
    t = {k: torch.from_numpy(v) for k, v in rows(21).items()}
    expected = squares(stream.task.build(0)(t["x"]), t).detach().numpy()
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert stream.take_train_loss() == (
        pytest.approx(float((expected * rows(21)[WEIGHT]).sum()), rel=1e-6),
        21,
    )


def test_each_row_is_reduced_once_before_the_step() -> None:
    stream = Given([rows(16)])
    batch = next(stream.iter_batches(batch_size=B, epochs=1, model=stream.task.build(0)))
    first, second, *_ = micro_batches(batch, 4)
    stream.reduce(torch.zeros(2), first)
    with pytest.raises(StreamOrderError, match=r"step was called when stream\.reduce was due"):
        stream.step(build())
    stream.reduce(torch.zeros(2), second)
    with pytest.raises(StreamOrderError, match="rows 4 to 12 of a batch of 8"):
        stream.reduce(torch.zeros(8), batch)


def test_micro_batches_have_one_size_and_keep_the_order() -> None:
    batch = {"x": torch.arange(12).view(6, 2), "y": torch.arange(6)}
    parts = list(micro_batches(batch, 3))
    assert [part["y"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(torch.cat([part["x"] for part in parts]), batch["x"])
    with pytest.raises(ValueError, match="parts=4"):
        list(micro_batches(batch, 4))


def test_of_one_process_all_strategies_train_the_same_weights() -> None:
    def weights(**options):
        training = Training(batch_size=B, optimizer="adam", lr=0.01, **options)
        stream = Given([rows(80)])
        torch.manual_seed(3)
        learner = Learner.build(stream.task, stream.task.build(0), training, [CPU])
        for batch in stream.iter_batches(batch_size=B, epochs=1, model=learner.module):
            learner.step(stream, batch, 1.0)
        return torch.cat([p.detach().flatten() for p in learner.module.parameters()])

    single = weights(strategy="single")
    assert torch.equal(weights(strategy="ddp"), single)
    assert torch.equal(weights(strategy="model_parallel"), single)
    assert torch.equal(weights(strategy="model_parallel", strategy_args={"split": [1, 4]}), single)
    with pytest.warns(UserWarning, match=r"data_parallel: this process has 0 GPUs.*passes every"):
        assert torch.equal(weights(strategy="data_parallel"), single)
    assert torch.allclose(weights(strategy="single", accumulate=4), single, rtol=0, atol=1e-10)


class Trunk(nn.Module):
    """Layers in a sequence, with names of their own."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

    def sequence(self):
        return [self.body, self.head]

    def forward(self, x):
        return self.head(self.body(x))


class Placing(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 1)
        self.placed = None

    def place(self, devices):
        self.placed = devices

    def forward(self, x):
        return self.body(x)


def test_a_model_says_what_its_stages_are() -> None:
    torch.manual_seed(0)
    trunk, x = Trunk(), torch.randn(5, 3)
    expected = trunk(x)
    assert torch.equal(place(trunk, [CPU, CPU])(x), expected)
    own = place(Placing(), [CPU, CPU])
    assert own.placed == [CPU, CPU]
    with pytest.raises(ModelError, match=r"Bilinear cannot be cut into stages.*sequence\(\)"):
        place(nn.Bilinear(1, 1, 1), [CPU])


def test_layers_are_cut_where_one_says_or_evenly() -> None:
    layers = [nn.Identity() for _ in range(7)]

    def sizes(count, split):
        return [len(stage) for stage in stages(layers, count, split)]

    assert sizes(2, None) == [4, 3]
    assert sizes(3, None) == [3, 2, 2]
    assert sizes(3, [1, 6]) == [1, 5, 1]
    for count, split in ((2, [7]), (2, [1, 2]), (3, [4]), (9, None)):
        with pytest.raises(ModelError, match=r"strategy_args\.split=.*0 Identity, 1 Identity"):
            stages(layers, count, split)


@pytest.mark.gpu
def test_stages_on_two_devices_train_as_on_one() -> None:
    """One GPU and the CPU: rows are moved between them, outputs come back to the first."""
    gpu = torch.device("cuda", 0)
    module = place(build(), [gpu, CPU])
    assert {p.device.type for p in module.parameters()} == {"cuda", "cpu"}
    x = torch.randn(4, 3, dtype=torch.float64)
    out = module(x.to(gpu))
    assert out.device.type == "cuda"
    out.sum().backward()
    plain = build()
    plain.load_state_dict({k: v.cpu() for k, v in module.state_dict().items()})
    plain(x).sum().backward()
    for p, q in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad.cpu(), q.grad)


@pytest.mark.gpu
def test_data_parallel_trains_on_the_gpu_as_single() -> None:
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    training = Training(strategy="data_parallel")
    if len(gpus) == 1:
        with pytest.warns(UserWarning, match="this process has 1 GPUs"):
            parallel = parallelize(build(), training, gpus)
    else:
        parallel = parallelize(build(), training, gpus)
    x = torch.randn(8, 3, dtype=torch.float64, device=gpus[0])
    torch.testing.assert_close(parallel.model(x), parallel.module(x))


@pytest.mark.gpu
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_shares_on_the_gpu_are_gathered_on_the_cpu(clip_norm) -> None:
    """A group of one process: no other fits one GPU under NCCL."""
    import torch.distributed as dist

    gpu = torch.device("cuda", 0)
    torch.cuda.set_device(gpu)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    try:
        task = Task(model=build, forward=inputs("x"), loss=squares)
        training = Training(strategy="fsdp", batch_size=B, optimizer="adam", clip_norm=clip_norm)
        learner = Learner.build(task, task.build(0), training, [gpu])
        plain = Learner.build(task, task.build(0), Training(optimizer="adam", batch_size=B,
                              clip_norm=clip_norm), [CPU])  # fmt: skip
        for one, device in ((learner, gpu), (plain, CPU)):
            stream = Given([rows(40)])
            stream.device = device
            for batch in stream.iter_batches(batch_size=B, epochs=1, model=one.module):
                one.step(stream, batch, 1.0)
        assert {p.device.type for p in learner.parallel.whole().parameters()} == {"cuda"}
        assert {p.device.type for p in learner.module.parameters()} == {"cpu"}
        for p, q in zip(learner.module.parameters(), plain.module.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-8)
        state = learner.state_dict()["optimizer"]["state"][0]["exp_avg"]
        assert state.device.type == "cpu"
        learner.load_state_dict(learner.state_dict())
    finally:
        dist.destroy_process_group()


def test_of_a_plain_module_the_seam_is_that_module() -> None:
    model = build()
    assert Parallel(model).model is Parallel(model).module is Parallel(model).whole() is model
