"""Statistics of selected rows: biased as they are, right when weighted by 1 / (N p).

Rows are selected by a real `SelectiveBackprop` from the losses of a net in the middle of its
training, again and again with other draws.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from raysb.prune.criteria import (
    Accumulator,
    Statistics,
    collect,
    find_criterion,
    inverse_probability,
)
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop, select_pool

ROWS, DRAWS = 1200, 24
LAYERS = ["0", "3"]
CRITERIA = ["taylor_act", "fisher", "skeletonization"]


def forward(model, batch):
    return model(batch["x"])


def loss(outputs, batch):
    return F.cross_entropy(outputs, batch["label"].long(), reduction="none")


def data(rows: int) -> SimpleNamespace:
    """A net that has learned a little of three classes of noisy patterns, and every row's loss."""
    torch.manual_seed(0)
    label = torch.randint(0, 3, (rows,))
    patterns = torch.randn(3, 1, 8, 8)
    noise = torch.rand(rows, 1, 1, 1) * 3  # rows from easy to hopeless
    x = patterns[label] + noise * torch.randn(rows, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.GroupNorm(3, 12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for start in range(0, 1200, 100):
        optimizer.zero_grad()
        part = slice(start, start + 100)
        loss(model(x[part]), {"label": label[part]}).mean().backward()
        optimizer.step()
    batch = {"x": x, "label": label}
    with torch.no_grad():
        losses = loss(forward(model, batch), batch)
    return SimpleNamespace(
        model=model, batch=batch, losses=losses.numpy(), terms=terms(model, batch)
    )


@pytest.fixture(scope="module")
def scored() -> SimpleNamespace:
    return data(ROWS)


def terms(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """|mean over positions of a g| of every row at the second convolution, by autograd. [N, C]"""
    with torch.no_grad():
        a = model[:5](batch["x"])
    a.requires_grad_()
    (g,) = torch.autograd.grad(loss(model[5:](a), batch).sum(), a)
    return (a * g).detach().mean((2, 3)).abs().double()


def select(scored, epoch: int) -> dict[str, torch.Tensor]:
    """What Selective-Backprop hands to training: rows, probability, weight."""
    columns = {name: column.numpy() for name, column in scored.batch.items()}
    selected = select_pool(
        SelectiveBackprop(beta=1.0, min_probability=0.05),
        columns | {"id": np.arange(len(scored.losses))},
        scored.losses,
        window=np.empty(0, np.float32),
        draws=Draws(seed=1, epoch=epoch),
        weights_step=0,
    )
    return {name: torch.from_numpy(column) for name, column in selected.batch.items()}


def trained(scored, epoch: int, *, weighted: bool) -> Statistics:
    """Statistics of the backward passes of an epoch of training steps on the selected rows."""
    accumulator = Accumulator(scored.model, LAYERS, needs={"gradient"})
    rows = select(scored, epoch)
    count = len(rows["label"])
    for start in range(0, count, 64):
        batch = {name: column[start : start + 64] for name, column in rows.items()}
        scale = 1 / len(batch["label"])
        weights = inverse_probability(batch) if weighted else None
        with accumulator.observe(weights, scale=scale):
            (loss(forward(scored.model, batch), batch) * batch["weight"]).mean().backward()
    return accumulator.statistics


@pytest.fixture(scope="module")
def runs(scored) -> dict[bool, list[Statistics]]:
    return {w: [trained(scored, e, weighted=w) for e in range(DRAWS)] for w in (True, False)}


def test_weighted_statistics_of_selected_rows_rank_as_a_uniform_pass_does() -> None:
    """One epoch over 4,000 rows each; with 1,200 near twins swap ranks (.88 and up)."""
    large = data(4000)
    uniform = collect(large.model, forward, loss, [large.batch], {"gradient"}, layers=LAYERS)
    runs = [trained(large, epoch, weighted=True) for epoch in range(4)]
    for criterion in map(find_criterion, CRITERIA):
        truth = criterion.importance(large.model, LAYERS, uniform)
        for run in runs:
            found = criterion.importance(large.model, LAYERS, run)
            for layer in LAYERS:
                assert spearmanr(found[layer], truth[layer]).statistic > 0.95


def test_the_expectation_of_weighted_statistics_is_that_of_the_population(scored, runs) -> None:
    """|mean of draws - truth| below 4 standard errors in every channel."""
    found = torch.stack([run["3"].mean("taylor") for run in runs[True]])
    error = (found.mean(0) - scored.terms.mean(0)).abs()
    assert (error < 4 * found.std(0) / DRAWS**0.5).all()


def test_without_weights_another_quantity_is_estimated(scored, runs) -> None:
    """sum p x / sum p in place of mean x: hard rows count more, here by far more than chance."""
    found = torch.stack([run["3"].mean("taylor") for run in runs[False]])
    standard_error = found.std(0) / DRAWS**0.5
    rank = (torch.from_numpy(scored.losses).argsort().argsort() + 0.5) / ROWS
    chance = rank.clamp(min=0.05).double()
    expected = chance @ scored.terms / chance.sum()
    assert ((found.mean(0) - expected).abs() < 4 * standard_error).all()
    bias = (found.mean(0) - scored.terms.mean(0)).abs() / standard_error
    assert (bias > 8).sum() > len(bias) / 2


def test_effective_rows_tell_what_the_weights_cost(runs) -> None:
    run = runs[True][0]["0"]
    assert 0.4 * run.rows < run.effective_rows < 0.9 * run.rows
    assert runs[False][0]["0"].effective_rows == pytest.approx(runs[False][0]["0"].rows)
