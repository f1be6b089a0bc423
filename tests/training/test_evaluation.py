"""The mean over rows held out is that of a direct computation, and leaves no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange


def build() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))


TASK = Task(
    model=build,
    forward=inputs("x"),
    loss=lambda o, b: F.cross_entropy(o, b["label"], reduction="none"),
    correct=lambda o, b: o.argmax(1) == b["label"],
)


def digits(rows=500):
    images, labels = load_digits(return_X_y=True)
    return {"x": images[:rows].astype(np.float32), "label": labels[:rows]}


@pytest.mark.parametrize("batch_size", [1, 7, 500, 10_000])
def test_loss_and_error_are_the_means_over_rows_whatever_the_batches(batch_size) -> None:
    model, data = TASK.build(0), digits()
    model.train()
    found = evaluate(TASK, model, ArraySource(data), Exchange(alone=True), batch_size=batch_size)
    model.eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(data["x"])).double()
    assert found["eval/loss"] == pytest.approx(log_loss(data["label"], logits.softmax(1).numpy()))
    error = 1 - accuracy_score(data["label"], logits.argmax(1).numpy())
    assert found["eval/error"] == pytest.approx(error)
    assert all(type(value) is float for value in found.values())


class Rank(Exchange):
    """One of several workers, as far as evaluation can tell; notes what it is given to sum."""

    def __init__(self, rank, world_size) -> None:
        super().__init__(alone=True)
        self.rank, self.world_size, self.given = rank, world_size, None

    def sum(self, numbers):
        self.given = numbers
        return numbers


class Noted(ArraySource):
    """Rows that note who reads them."""

    def read(self, epoch, start, stop):
        self.spans = [*getattr(self, "spans", []), (start, stop)]
        return super().read(epoch, start, stop)


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_workers_read_every_row_once_between_them_and_their_sums_add_up(world_size) -> None:
    model, data = TASK.build(0).eval(), digits(53)
    source, total = Noted(data), 0
    for rank in range(world_size):
        exchange = Rank(rank, world_size)
        evaluate(TASK, model, source, exchange, batch_size=10)
        total = total + exchange.given
    assert sorted(source.spans) == [(i, min(i + 10, 53)) for i in range(0, 53, 10)]
    with torch.no_grad():
        losses = TASK.loss(
            model(torch.from_numpy(data["x"])), {"label": torch.tensor(data["label"])}
        )
    assert total[0] == pytest.approx(losses.sum().item(), rel=1e-5)
    assert total[[1, 3]].tolist() == [53, 53]


def test_a_model_in_training_is_left_as_it_was() -> None:
    model = TASK.build(0).train()
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    evaluate(TASK, model, ArraySource(digits()), Exchange(alone=True))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_there_is_no_error_where_no_answer_is_right_and_rows_can_be_prepared() -> None:
    task = Task(model=build, forward=inputs("x"), loss=lambda o, b: o.sum(1) * 0 + b["x"][:, 0])
    found = evaluate(
        task,
        task.build(0),
        ArraySource(digits()),
        Exchange(alone=True),
        prepare=lambda batch: batch | {"x": batch["x"] * 0 + 2},
    )
    assert found == {"eval/loss": 2.0}
