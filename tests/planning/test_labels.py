"""The rule that tells wrong labels from hard rows, on synthetic losses and on runs."""

import os
from pathlib import Path

import numpy as np
import pytest

from raysb import cli
from raysb.inspect_history.records import read_history
from raysb.planning.advice import LEAST_EASY
from raysb.planning.labels import LEAST_DEPTH, LEAST_SHARE, find_valley, judge_labels
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


def test_what_the_net_learned_only_at_the_end_the_last_scoring_tells() -> None:
    """The mean over many early epochs is one group; the last losses are two."""
    known = samples(mixed(0.2))
    blurred = np.random.default_rng(1).normal(2, 0.2, N)
    assert find_valley(blurred).depth < LEAST_DEPTH
    found = judge_labels({**known, "mean_loss": blurred})
    assert found.finding == "wrong"
    assert found.share == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("depth", [0.0, 0.06, 0.12, 0.2, 0.28])
def test_a_valley_a_tenth_deep_is_one_and_a_shallower_one_is_none(depth) -> None:
    """A density that is flat but for a gap, so that the depth is known."""
    low, gap, high = 12_000, round(4000 * (1 - depth)), 6000  # at -6 to 0, 0 to 2, 2 to 5
    odds = np.concatenate(
        [np.linspace(-6, 0, low), np.linspace(0, 2, gap), np.linspace(2, 5, high)]
    )
    found = judge_labels(samples(1 / (1 + np.exp(odds))))
    assert found.finding == ("wrong" if depth > 0.1 else "unlearned")


def test_groups_among_rows_that_are_not_learned_are_no_wrong_labels() -> None:
    """After a short run: losses in two groups, and most rows of the lower one mispredicted too."""
    known = samples(mixed(0.1))
    for mispredicted, finding in ((0.2, "wrong"), (0.3, "unlearned")):
        known["correct"] = np.arange(N) >= mispredicted * N
        found = judge_labels(known)
        assert found.finding == finding
        assert (found.share > 0) == (finding == "wrong")


def rare(share: float, wrong: float) -> tuple[dict, np.ndarray]:
    """Nine classes that are learned but for wrong labels, and one that is not."""
    rng = np.random.default_rng(0)
    classes = np.where(rng.random(N) < share, 9, rng.integers(0, 9, N))
    chance = mixed(wrong, seed=1)
    chance[classes == 9] = rng.beta(3, 120, (classes == 9).sum())
    return samples(chance), classes


@pytest.mark.parametrize("share", [0.03, 0.05, 0.1])
def test_a_class_that_is_not_learned_yet_is_no_group_of_wrong_labels(share) -> None:
    known, classes = rare(share, 0.0)
    found = judge_labels(known, classes=classes)
    assert (found.finding, found.unlearned_classes) == ("unlearned", (9,))
    assert judge_labels(known).finding == "wrong"  # without labels they look the same
    assert not judge_labels(known).by_class
    assert found.by_class


@pytest.mark.parametrize("wrong", [0.04, 0.2, 0.4])
def test_wrong_labels_are_found_beside_a_class_that_is_not_learned(wrong) -> None:
    known, classes = rare(0.05, wrong)
    found = judge_labels(known, classes=classes)
    assert (found.finding, found.unlearned_classes) == ("wrong", (9,))
    assert found.share == pytest.approx(0.95 * wrong, abs=0.02)
    spread = judge_labels(samples(mixed(wrong, seed=2)), classes=classes)
    assert (spread.finding, spread.unlearned_classes) == ("wrong", ())


def test_easy_rows_are_those_whose_label_has_a_chance_of_a_half() -> None:
    chance = np.concatenate([np.full(300, 0.49), np.full(700, 0.51)])
    assert judge_labels(samples(chance)).easy == 0.7


def test_the_valley_does_not_depend_on_the_order_of_the_rows() -> None:
    losses = -np.log(mixed(0.1))
    assert find_valley(losses) == find_valley(losses[::-1])
    assert find_valley(np.full(500, 0.3)).depth == 0


def test_beyond_the_valley_lies_the_share_that_is_told() -> None:
    losses = -np.log(mixed(0.1))
    found = find_valley(losses)
    assert (losses > found.loss).mean() == pytest.approx(found.share, abs=1e-3)


def test_without_a_right_and_wrong_or_with_few_rows_nothing_is_said() -> None:
    known = samples(mixed(0.2))
    assert judge_labels(known, judged=False).finding == "unknown"
    few = {name: column[:100] for name, column in known.items()}
    assert judge_labels(few).finding == "unknown"
    nowhere = {**known, "mean_loss": np.full(N, np.nan)}
    assert judge_labels(nowhere).finding == "unknown"


def train(capsys, words: str) -> dict:
    """The history of a run on what `mnist5k` gives."""
    fixed = "train --engine local --train.use_gpu false --train.num_threads 1 --run.dir run "
    assert cli.main((fixed + words).split()) == 0
    capsys.readouterr()
    return read_history(Path("run")).samples


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize("words", ["", "--selector.min_probability 1"])
def test_after_one_epoch_on_right_labels_of_mnist_nothing_is_said_of_them(
    words, elsewhere, capsys
) -> None:
    """The losses have a valley early on: .52 deep with all defaults, 6 % of the rows beyond it."""
    known = train(capsys, f"--train.epochs 1 {words}")
    found = judge_labels(known)
    assert found.finding == "unlearned"
    assert found.unlearned > 0.4
    assert found.easy < 0.2
    assert (found.share, found.depth) == (0, 0)


@pytest.mark.parametrize(
    ("flipped", "finding", "epochs"),
    [
        (0.0, "right", 6),
        (0.05, "wrong", 6),
        (0.2, "wrong", 6),
        (0.0, "right", 15),
        # 5 % left a valley of .091 on an Intel Xeon, where .1 counts, and a deeper one on an EPYC
        (0.2, "wrong", 15),
    ],
)
def test_flipped_labels_of_mnist_are_detected(
    flipped, finding, epochs, elsewhere, monkeypatch, capsys
) -> None:
    """Early, when the net has not learned them, and late, when it has many of them by heart."""
    rows = demo.mnist5k()
    rng, label = np.random.default_rng(3), rows["label"].copy()
    wrong = rng.choice(len(label), round(flipped * len(label)), replace=False)
    label[wrong] = (label[wrong] + rng.integers(1, 10, len(wrong))) % 10
    other = {**rows, "label": label}
    assert other[ID] is rows[ID]
    monkeypatch.setitem(demo.DEMOS, "mnist5k", lambda: other)
    words = f"--model.name mlp --selector.min_probability 1 --train.epochs {epochs}"
    known = train(capsys, f"{words} --train.optimizer_args.momentum 0.9")
    for classes in (None, label[known["id"]]):
        found = judge_labels(known, classes=classes)
        assert found.finding == finding
        assert found.share == pytest.approx(flipped, abs=0.03)
        assert found.unlearned_classes == ()
    if not flipped:
        assert found.easy > LEAST_EASY
