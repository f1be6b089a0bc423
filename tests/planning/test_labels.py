"""The rule that tells wrong labels from hard rows, on synthetic losses and on runs."""

import os

import numpy as np
import pytest

from raysb import cli
from raysb.inspect_history.records import read_history
from raysb.planning.labels import LEAST_SHARE, find_valley, judge_labels
from raysb.schema import ID
from raysb.source import demo

N = 4000


def samples(chance, seed: int = 0) -> dict:
    """A history whose labels got these chances."""
    losses = -np.log(np.clip(chance, 1e-6, 1 - 1e-6))
    return {"mean_loss": losses, "scored_loss": losses, "correct": chance > 0.5}


def mixed(share: float, seed: int = 0) -> np.ndarray:
    """Right labels at .5 to .99, a share of wrong ones about .02."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(N) < share
    return np.where(wrong, rng.beta(3, 120, N), rng.beta(12, 1.5, N))


@pytest.mark.parametrize("share", [0.04, 0.1, 0.2, 0.4])
def test_two_groups_are_found_and_the_share_beyond_is_that_of_the_wrong_ones(share) -> None:
    found = judge_labels(samples(mixed(share)))
    assert found.finding == "wrong"
    assert found.share == pytest.approx(share, abs=0.02)
    assert found.depth > 0.5


@pytest.mark.parametrize("seed", range(10))
def test_hard_rows_of_every_chance_are_no_wrong_labels(seed) -> None:
    rng = np.random.default_rng(seed)
    hard = judge_labels(samples(rng.beta(1.2, 0.9, N)))  # a third below a half
    assert hard.finding == "unlearned"
    assert hard.unlearned == pytest.approx(0.4, abs=0.05)
    easy = judge_labels(samples(rng.beta(6, 0.6, N)))
    assert (easy.finding, easy.share, easy.depth) == ("right", 0, 0)


def test_a_few_odd_rows_are_not_many() -> None:
    assert judge_labels(samples(mixed(LEAST_SHARE / 2))).finding == "right"


def test_two_groups_that_are_both_predicted_rightly_are_no_wrong_labels() -> None:
    rng = np.random.default_rng(0)
    chance = np.where(rng.random(N) < 0.2, rng.beta(150, 50, N), rng.beta(3000, 5, N))
    assert judge_labels(samples(chance)).finding == "right"


def test_what_the_net_learned_by_heart_only_the_mean_still_tells() -> None:
    known = samples(mixed(0.2))
    known["scored_loss"] = samples(np.full(N, 0.98))["scored_loss"]
    known["correct"] = np.ones(N, bool)
    assert judge_labels(known).finding == "wrong"


def test_the_valley_does_not_depend_on_the_order_of_the_rows() -> None:
    losses = -np.log(mixed(0.1))
    assert find_valley(losses) == find_valley(losses[::-1])
    assert find_valley(np.full(500, 0.3)) == (0.0, 0.0)


def test_without_a_right_and_wrong_or_with_few_rows_nothing_is_said() -> None:
    known = samples(mixed(0.2))
    assert judge_labels(known, judged=False).finding == "unknown"
    few = {name: column[:100] for name, column in known.items()}
    assert judge_labels(few).finding == "unknown"
    nowhere = {**known, "mean_loss": np.full(N, np.nan)}
    assert judge_labels(nowhere).finding == "unknown"


@pytest.mark.parametrize(("flipped", "finding"), [(0.0, "right"), (0.05, "wrong"), (0.2, "wrong")])
@pytest.mark.parametrize("epochs", [6, 15])
def test_flipped_labels_of_mnist_are_detected(
    flipped, finding, epochs, tmp_path, monkeypatch, capsys
) -> None:
    """Early, when the net has not learned them, and late, when it has many of them by heart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    rows = demo.mnist5k()
    rng, label = np.random.default_rng(3), rows["label"].copy()
    wrong = rng.choice(len(label), round(flipped * len(label)), replace=False)
    label[wrong] = (label[wrong] + rng.integers(1, 10, len(wrong))) % 10
    other = {**rows, "label": label}
    assert other[ID] is rows[ID]
    monkeypatch.setitem(demo.DEMOS, "mnist5k", lambda: other)
    words = "train --engine local --model.name mlp --train.use_gpu false --train.num_threads 1"
    words += f" --run.dir run --selector.min_probability 1 --train.epochs {epochs}"
    words += " --train.optimizer_args.momentum 0.9"
    assert cli.main(words.split()) == 0
    capsys.readouterr()
    found = judge_labels(read_history(tmp_path / "run").samples)
    assert found.finding == finding
    assert found.share == pytest.approx(flipped, abs=0.03)
