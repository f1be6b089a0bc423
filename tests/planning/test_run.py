"""What a history of one's own data makes of the plan, on digits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysb.config import load
from raysb.inspect_history.records import RunHistory
from raysb.job import Silent
from raysb.planning.measure import Measured
from raysb.planning.run import labels_of, predict
from raysb.planning.text import lines
from raysb.prepare import build_job, open_data, resolve
from raysb.schema import ID

WORDS = "--data.train digits --model.name mlp --train.use_gpu false".split()


@pytest.fixture(scope="module")
def opened():
    config = load(None, WORDS)
    sources = open_data(config)
    return resolve(replace(config, run=replace(config.run, loggers=())), sources), sources


def history(sources, chance, epochs=3) -> RunHistory:
    """As of a run on these rows, whose labels got these chances: a function of the classes."""
    rows = sources.train.read(None, 0, sources.train.num_rows)
    order = np.argsort(rows[ID])
    given = chance(rows["label"][order], np.random.default_rng(0))
    loss = -np.log(given)
    samples = {
        "id": rows[ID][order],
        "mean_loss": loss,
        "scored_loss": loss,
        "correct": given > 0.5,
        "first_learned_epoch": np.zeros(len(loss), np.int32),
        "last_epoch": np.full(len(loss), epochs - 1, np.int32),
    }
    return RunHistory(checkpoint=Path("run"), num_steps=1, samples=samples)


def learned(classes, rng):
    return rng.beta(12, 1.0, len(classes))


def four_is_not(classes, rng):
    return np.where(classes == 4, rng.beta(3, 120, len(classes)), learned(classes, rng))


def some_are_wrong(classes, rng):
    wrong = rng.random(len(classes)) < 0.2
    return np.where(wrong, rng.beta(3, 120, len(classes)), learned(classes, rng))


def test_the_classes_of_a_history_are_looked_up_by_id(opened) -> None:
    config, sources = opened
    found = labels_of(history(sources, four_is_not), sources.train, config)
    assert (found.finding, found.unlearned_classes) == ("unlearned", (4,))
    found = labels_of(history(sources, some_are_wrong), sources.train, config)
    assert (found.finding, found.unlearned_classes, found.by_class) == ("wrong", (), True)


def test_of_other_data_the_history_is_judged_without_classes(opened) -> None:
    config, sources = opened
    other = history(sources, four_is_not)
    other.samples["id"] = other.samples["id"] + 100_000
    found = labels_of(other, sources.train, config)
    assert (found.finding, found.by_class) == ("wrong", False)


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch "), (2, "2 epochs "), (3, None)])
def test_wrong_labels_that_are_seen_before_the_third_epoch_are_doubted(
    opened, epochs, said
) -> None:
    config, sources = opened
    found = labels_of(history(sources, some_are_wrong, epochs), sources.train, config)
    assert (found.finding, found.num_epochs, found.settled) == ("wrong", epochs, said is None)
    text = " ".join(
        lines(predict(config, build_job(config, sources, Silent(), False), COSTS, found))
    )
    assert ("Train on, then ask again" in text) == (said is not None)
    assert said is None or f"After {said}these may be" in text


COSTS = Measured(
    device="cpu",
    threads=1,
    clock="CPU",
    rounds=3,
    batch_size=64,
    pool_rows=512,
    read=1e-5,
    forward={"float32": 3e-5},
    bound=None,
    score=3e-5,
    train=1e-4,
)


@pytest.mark.parametrize(
    ("chance", "recommended", "said"),
    [
        (None, "--selector.kind uniform", "never came to uniform's error on CIFAR-10"),
        (learned, "--selector.kind stale_selective_backprop", "of the rows are easy"),
        (four_is_not, "--selector.kind uniform", "what lies apart is one class"),
        (some_are_wrong, "--selector.kind uniform", "or try; in the records none came to"),
    ],
)
def test_what_is_recommended_follows_from_the_history_and_is_said(
    opened, chance, recommended, said
) -> None:
    config, sources = opened
    labels = chance and labels_of(history(sources, chance), sources.train, config)
    found = predict(config, build_job(config, sources, Silent(), False), COSTS, labels)
    text = list(lines(found))
    assert said in " ".join(line.strip() for line in text)
    assert any(line.startswith(f"recommended: {recommended}") for line in text)
    named = [line for line in text if line.startswith(("cheapest epoch", "to find out"))]
    assert len(named) == (2 if chance in (None, four_is_not) else 0)
