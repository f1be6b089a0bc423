"""One optimizer step is that of a plain PyTorch loop."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raysb.errors import ModelError
from raysb.schema import ID, POOL, PROBABILITY, WEIGHT
from raysb.scoring.settings import Scoring
from raysb.selection import Uniform
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.batch_stream import BatchStream
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec


def squares(outputs, batch):
    return (outputs.squeeze(1) - batch["y"]) ** 2


def build():
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))


TASK = Task(model=build, forward=inputs("x"), loss=squares)


def rows(n=80):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(n, 4)).astype(np.float32),
        "y": 9 * rng.normal(size=n).astype(np.float32),
        ID: np.arange(n),
        POOL: np.zeros(n, np.int64),
        PROBABILITY: np.ones(n, np.float32),
        WEIGHT: np.ones(n, np.float32),
    }


class Given(BatchStream):
    def __init__(self, task=TASK):
        source = ArraySource({"x": np.zeros((80, 4), np.float32), "y": np.zeros(80)})
        super().__init__(
            StreamSpec(source=source, task=task, selector=Uniform(), scoring=Scoring())
        )

    def _open(self, batch_size, epochs, model):
        return self.spec.plan(batch_size, epochs)

    def _blocks(self):
        yield rows()

    def _publish(self, model):
        self.published = model

    def _record_backward(self, ids, losses):
        pass

    def _close(self):
        pass


def learn(learner, task=TASK, factors=None):
    stream = Given(task)
    for k, batch in enumerate(stream.iter_batches(batch_size=8, epochs=1, model=learner.model)):
        learner.step(stream, batch, factors[k] if factors else 1.0)
    return stream


def plain(optimizer_of, clip=None, factors=None):
    model = TASK.build(0).train()
    optimizer = optimizer_of(model)
    base, data = (
        optimizer.param_groups[0]["lr"],
        {k: torch.from_numpy(v) for k, v in rows().items()},
    )
    for k in range(10):
        for group in optimizer.param_groups:
            group["lr"] = base * (factors[k] if factors else 1.0)
        batch = {name: column[8 * k : 8 * k + 8] for name, column in data.items()}
        loss = squares(model(batch["x"]), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        if clip:
            norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
            for p in model.parameters():
                p.grad *= min(1.0, clip / (float(norm) + 1e-6))
        optimizer.step()
    return model


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def same(first, second, **tolerance):
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("optimizer", [sgd, lambda m: torch.optim.Adam(m.parameters(), lr=0.01)])
def test_steps_are_bit_for_bit_those_of_a_plain_loop_also_with_dropout_and_a_moving_rate(
    optimizer,
) -> None:
    factors = [1.0, 0.5, 0.25, 0.0, 1.0, 2.0, 0.1, 0.1, 0.1, 0.7]
    torch.manual_seed(7)
    model = TASK.build(0)
    stream = learn(Learner(TASK, model, optimizer(model)), factors=factors)
    torch.manual_seed(7)
    same(model, plain(optimizer, factors=factors), **EXACT)
    assert stream.published is model


def test_the_gradients_norm_is_clipped_over_all_parameters() -> None:
    torch.manual_seed(7)
    model = TASK.build(0)
    learn(Learner(TASK, model, sgd(model), clip_norm=0.3))
    torch.manual_seed(7)
    same(model, plain(sgd, clip=0.3), rtol=1e-5, atol=1e-6)
    torch.manual_seed(7)
    with pytest.raises(AssertionError):
        same(model, plain(sgd), rtol=1e-5, atol=1e-6)


def test_the_terms_of_a_step_hook_are_added() -> None:
    def step(model, batch):
        half = squares(model(batch["x"]), batch) / 2
        return {"first": half, "second": half}

    torch.manual_seed(7)
    model, hooked = TASK.build(0), Task(model=build, forward=inputs("x"), loss=squares, step=step)
    learn(Learner(hooked, model, sgd(model)), hooked)
    torch.manual_seed(7)
    same(model, plain(sgd), rtol=1e-6, atol=1e-7)


def test_a_learner_goes_on_where_its_state_was_taken() -> None:
    torch.manual_seed(7)
    first = TASK.build(0)
    learner = Learner(TASK, first, sgd(first))
    learn(learner, factors=[0.1] * 10)  # the present rate is not the base rate
    second = TASK.build(1)
    second.load_state_dict(first.state_dict())
    other = Learner(TASK, second, sgd(second))
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert other.base_lrs == [0.05]
    torch.manual_seed(8)
    learn(learner)
    torch.manual_seed(8)
    learn(other)
    same(first, second, **EXACT)


def test_settings_that_are_others_now_win_over_those_of_the_state() -> None:
    first = TASK.build(0)
    learner = Learner(TASK, first, torch.optim.SGD(first.parameters(), lr=0.1, momentum=0.9))
    learn(learner, factors=[0.5] * 10)
    second = TASK.build(1)
    changed = torch.optim.SGD(second.parameters(), lr=7.0, momentum=0.9, weight_decay=0.25)
    other = Learner(TASK, second, changed)
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert other.base_lrs == [7.0]
    [group] = changed.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.25)
    for mine, theirs in zip(second.parameters(), first.parameters(), strict=True):
        held = changed.state[mine]["momentum_buffer"]
        torch.testing.assert_close(held, learner.optimizer.state[theirs]["momentum_buffer"])


def test_the_state_of_another_optimizer_is_refused_by_name() -> None:
    model = TASK.build(0)
    learner = Learner(TASK, model, torch.optim.SGD(model.parameters(), lr=0.1))
    other = Learner(TASK, model, torch.optim.Adam(model.parameters(), lr=0.1))
    with pytest.raises(ModelError, match=r"SGD .* this one Adam"):
        other.load_state_dict(learner.state_dict())


PUBLISHED = """
import sys
sys.path.insert(0, {folder!r})
from test_parallel import B, Given, build, rows, squares
from raysb.schema import WEIGHT
from raysb.task import Task, inputs
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.settings import Training

BLOCKS, exchange = [[rows(48)], [rows(48, 100)]], Exchange()

def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).tolist()

class Publishing(Given):
    def publishes(self):
        return self.num_steps % 2 == 1
    def _publish(self, module):
        if self.num_steps % 2 == 0:  # by now it has counted the step
            found[name].append(flat(module))

found = {{}}
for name, options in {{"ddp": {{}}, "fsdp": {{}}, "pipeline": {{"accumulate": 4}}}}.items():
    found[name] = []
    torch.manual_seed(0)
    task = Task(model=build, forward=inputs("x"), loss=squares)
    training = Training(batch_size=B, num_workers=2, strategy=name, lr=.01,
                        optimizer="adam", **options)
    learner = Learner.build(task, build(), training, [torch.device("cpu")])
    stream = Publishing(BLOCKS[rank], exchange)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=learner.module):
        learner.step(stream, batch, 1.0)

torch.manual_seed(0)
module, found["plain"] = build(), []
optimizer = torch.optim.Adam(module.parameters(), lr=.01)
for k in range(6):
    t = {{n: torch.from_numpy(np.concatenate([own[0][n][k * B:k * B + B] for own in BLOCKS]))
         for n in ("x", "y", WEIGHT)}}
    optimizer.zero_grad()
    (squares(module(t["x"]), t) * t[WEIGHT]).mean().backward()
    optimizer.step()
    if k % 2:
        found["plain"].append(flat(module))
"""


@pytest.mark.gloo
def test_scorers_get_the_weights_of_the_very_step_also_where_workers_hold_parts(gloo) -> None:
    """Every second step is published, by every worker, as a plain loop has the weights by then."""
    for found in gloo(PUBLISHED.format(folder=str(Path(__file__).parent)), workers=2):
        assert len(found["plain"]) == 3
        for name in ("ddp", "fsdp", "pipeline"):
            np.testing.assert_allclose(found[name], found["plain"], rtol=0, atol=1e-6, err_msg=name)
