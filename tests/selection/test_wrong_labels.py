"""Who trains on wrong labels: a net on digits of which a fifth are labelled wrongly."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from raysb.local import LocalStream
from raysb.losses import cross_entropy
from raysb.schema import ID, POOL, WEIGHT
from raysb.scoring.settings import Scoring
from raysb.selection import (
    ConfidenceBand,
    HighestK,
    KeepFraction,
    LowestK,
    ReducibleLoss,
    SelectiveBackprop,
    Selector,
    Uniform,
)
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec

EPOCHS, ROWS, POOL_ROWS, BATCH = 4, 1200, 120, 24
WRONG = 0.2


@cache
def digits() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows to train on, and which of them are labelled wrongly.

    The irreducible losses are of a regression on the other 597 rows, a fifth of them wrong as well.
    """
    rng = np.random.default_rng(3)
    images, truth = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    x, truth = (images[order] / 16).astype(np.float32), truth[order]
    wrong = np.arange(len(x)) % 5 == 0
    label = np.where(wrong, (truth + rng.integers(1, 10, len(x))) % 10, truth)
    known = LogisticRegression(C=0.05, max_iter=500).fit(x[ROWS:], label[ROWS:])
    chance = known.predict_proba(x[:ROWS])[np.arange(ROWS), label[:ROWS]]
    irreducible = -np.log(chance).astype(np.float32)
    columns = {"x": x[:ROWS], "label": label[:ROWS], "irreducible_loss": irreducible}
    return columns, wrong[:ROWS]


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(selector: Selector) -> list[np.ndarray]:
    """Of each row trained whether its label is wrong, epoch by epoch."""
    columns, wrong = digits()
    spec = StreamSpec(
        source=ArraySource(columns, seed=3),
        task=Task(model=net, forward=inputs("x"), loss=cross_entropy("label")),
        selector=selector,
        scoring=Scoring(batch_size=POOL_ROWS),
        seed=3,
        inputs=("x",),
    )
    stream, model = LocalStream(spec), net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.8)
    learner, rows = Learner(spec.task, model, optimizer), []
    for batch in stream.iter_batches(batch_size=BATCH, epochs=EPOCHS, model=model):
        learner.step(stream, batch, 1.0)
        rows.append({name: batch[name].numpy().copy() for name in (ID, POOL, WEIGHT)})
    ids, pools, weights = (np.concatenate([r[n] for r in rows]) for n in (ID, POOL, WEIGHT))
    epochs = stream.plan.epoch_of(pools)
    return [wrong[ids[(epochs == epoch) & (weights > 0)]] for epoch in range(EPOCHS)]


def deviations(wrong: np.ndarray) -> float:
    """By how many standard errors the share of wrong labels is above that of the data."""
    return float((wrong.mean() - WRONG) / np.sqrt(WRONG * (1 - WRONG) / len(wrong)))


@pytest.mark.parametrize(
    "selector",
    [
        SelectiveBackprop(history=240),
        SelectiveBackprop(beta=2, history=240),
        HighestK(),
        KeepFraction(),
    ],
    ids=repr,
)
def test_who_looks_for_high_losses_trains_more_wrong_labels_than_there_are(selector) -> None:
    """370 to 600 rows an epoch, three standard errors: .25 and more of them, seen .28 to .49.

    In the first epoch, whose losses are mostly of a net that knows nothing, .25 to .28.
    """
    for wrong in trained(selector)[1:]:
        assert len(wrong) > 350
        assert deviations(wrong) > 3


@pytest.mark.parametrize(
    "selector", [LowestK(), ConfidenceBand(low=0.1, high=0.7, history=240)], ids=repr
)
def test_who_leaves_out_the_highest_losses_trains_fewer(selector) -> None:
    """700 rows an epoch, three standard errors: below .155, seen .09 to .11; a band is of no use
    in the first epoch, .2."""
    for wrong in trained(selector)[1:]:
        assert len(wrong) > 650
        assert deviations(wrong) < -3


def test_by_reducible_loss_hardly_any_wrong_label_is_trained() -> None:
    """120 rows an epoch, from the first on; seen none. That lasts as long as the net is no better
    than the model of the irreducible losses: six epochs of this one are too many."""
    for wrong in trained(ReducibleLoss()):
        assert len(wrong) == 120
        assert deviations(wrong) < -3


def test_without_selection_they_are_trained_as_often_as_they_are() -> None:
    assert [wrong.mean() for wrong in trained(Uniform())] == [WRONG] * EPOCHS
