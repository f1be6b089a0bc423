"""Pruning and rebirth by training runs: a trainer, a criterion, and what became of the parent."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import raysb
from raysb.pruning import Wanted, classes_of, spread_batches
from raysb.rebirth import reborn
from raysb.source.arrays import ArraySource


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 3)
    )


def rows(count, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, count)
    patterns = np.random.default_rng(9).normal(size=(3, 1, 8, 8))
    image = patterns[label] + 0.8 * rng.normal(size=(count, 1, 8, 8))
    return {"image": image.astype(np.float32), "label": label}


def trainer(**known):
    given = {"training": raysb.Training(epochs=1, lr=0.05, num_threads=1), "engine": "local"}
    held_out = {"eval": ArraySource(rows(150, 1))}
    return partial(
        raysb.SelectiveTrainer,
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": ArraySource(rows(600, 0))} | known.pop("held_out", held_out),
        forward=raysb.inputs("image"),
        selector=raysb.SelectiveBackprop(),
        **given | known,
    )


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where runs are written
    run = trainer()
    return raysb.load_model(run(model=build).fit().path, build)


def test_errors_and_agreement_are_those_of_held_out_rows(parent) -> None:
    """Oracle: the parent, asked here about every row at once."""
    before = {name: each.clone() for name, each in parent.state_dict().items()}
    wanted = Wanted(criterion="l1", keep={"0": 4})
    found = reborn(parent, trainer(), wanted, rounds=1, agreement=0)
    held_out = rows(150, 1)
    with torch.no_grad():
        own = parent(torch.from_numpy(held_out["image"])).argmax(1)
    assert found.parent == float((own != torch.from_numpy(held_out["label"])).double().mean())
    assert found.gain.parameters == (8 * 10 + 128 * 3 + 3) / (4 * 10 + 64 * 3 + 3)
    assert len(found.before) == len(found.after) == 1
    assert 1 - found.agreement[0] <= found.after[0] + found.parent
    assert all(torch.equal(before[name], each) for name, each in parent.state_dict().items())


def test_the_control_is_trained_and_not_cut(parent) -> None:
    found = reborn(parent, trainer(), None, rounds=2, agreement=0)
    assert found.gain.parameters == found.gain.macs == 1
    assert found.before[0] == found.parent
    assert found.before[1] == found.after[0]


def test_an_outcome_that_is_there_is_read_and_nothing_is_trained(parent, tmp_path) -> None:
    file = tmp_path / "l1.json"
    wanted = Wanted(criterion="l1", amount=0.5)
    found = reborn(parent, trainer(), wanted, rounds=1, file=file)
    assert json.loads(file.read_text())["outcome"]["parent"] == found.parent
    written = file.read_bytes()
    assert reborn(parent, untrained(), wanted, rounds=1, file=file) == found
    assert file.read_bytes() == written


def untrained():
    """A trainer that is asked for its settings, and not to train."""

    class Idle(raysb.SelectiveTrainer):
        def fit(self):
            raise AssertionError("a run was made")

    made = trainer()
    return partial(Idle, *made.args, **made.keywords)


@pytest.mark.parametrize("other", ["amount", "rounds", "agreement", "lr", "parent"])
def test_an_outcome_of_other_settings_is_not_taken_for_this_one(parent, tmp_path, other) -> None:
    file = tmp_path / "l1.json"
    reborn(parent, trainer(), Wanted(criterion="l1", amount=0.5), rounds=1, file=file)
    wanted = Wanted(criterion="l1", amount=0.25 if other == "amount" else 0.5)
    bounds = {"rounds": 2 if other == "rounds" else 1}
    bounds |= {"agreement": 0.5} if other == "agreement" else {}
    rate = 0.01 if other == "lr" else 0.05
    run = trainer(training=raysb.Training(epochs=1, lr=rate, num_threads=1))
    if other == "parent":
        with torch.no_grad():
            parent[0].bias += 1
    before = json.loads(file.read_text())
    reborn(parent, run, wanted, **bounds, file=file)
    assert json.loads(file.read_text())["made_with"] != before["made_with"]


def test_without_rows_held_out_nothing_could_be_judged(parent) -> None:
    with pytest.raises(ValueError, match="no rows are held out"):
        reborn(parent, trainer(held_out={}), None)


def test_classes_are_those_of_one_pass_over_all_rows(parent) -> None:
    job = trainer()(model=build).job
    with torch.no_grad():
        wanted = parent(torch.from_numpy(rows(150, 1)["image"])).argmax(1)
    assert torch.equal(classes_of(parent, job.spec.task, job.held_out, batch_size=64), wanted)


@pytest.mark.parametrize("count", [1, 2, 17, 64, 590, 600, 1000])
def test_batches_are_of_as_many_rows_from_all_over_the_data(count) -> None:
    job = trainer()(model=build).job
    batches = spread_batches(job.spec.task, ArraySource(rows(600, 0)), count)
    found = torch.cat([each["image"] for each in batches])
    known = torch.from_numpy(rows(600, 0)["image"])
    places = (found[:, None] == known[None]).flatten(2).all(2).nonzero()[:, 1]
    assert len(places) == len(places.unique()) == min(count, 600)
    assert places.min() == 0
    assert places.max() == (599 if count > 1 else 0)
    if count > 16:  # blocks
        assert places.diff().max() <= 600 / 15


def test_a_number_of_rows_below_1_is_refused() -> None:
    job = trainer()(model=build).job
    with pytest.raises(ValueError, match="rows=0: must be at least 1"):
        spread_batches(job.spec.task, ArraySource(rows(600, 0)), 0)
