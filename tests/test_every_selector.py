"""Every kind of selector in a whole run: the local engine, the loader, a resume."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

import raysb
from raysb.local import LocalStream
from raysb.losses import cross_entropy
from raysb.schema import ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.scoring.settings import Scoring
from raysb.selection import SELECTORS, Adjustments
from raysb.selection.scorer import PoolScoring
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.learner import Learner
from raysb.training.spec import StreamSpec

ARGS = {
    "stale_selective_backprop": {"refresh_every": 2},
    "importance_sampling": {"tau_threshold": 1.02},  # on from the second pool or so
    "budgeted_selection": {"rows_per_epoch": 200},
    "reducible_loss": {"fraction": 0.4},
}
EPOCHS, ROWS, POOL_ROWS, BATCH = 4, 600, 60, 20


def columns():
    images, labels = load_digits(return_X_y=True)
    known = {"x": (images[:ROWS] / 16).astype(np.float32), "label": labels[:ROWS]}
    return known | {"irreducible_loss": np.linspace(0, 1, ROWS).astype(np.float32)}


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))


def spec_of(kind, **settings):
    return StreamSpec(
        source=ArraySource(columns(), seed=3),
        task=Task(model=net, forward=inputs("x"), loss=cross_entropy("label")),
        selector=SELECTORS[kind](**ARGS.get(kind, {})),
        scoring=Scoring(batch_size=POOL_ROWS),
        seed=3,
        inputs=("x",),
        **settings,
    )


def train(spec, *, state=None, max_steps=None):
    """The steps of a run, as plain arrays."""
    stream, model = LocalStream(spec), net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    learner = Learner(spec.task, model, optimizer)
    if state is not None:
        stream.load_state_dict(state[0])
        model.load_state_dict(state[1])
    steps = []
    for batch in stream.iter_batches(
        batch_size=BATCH, epochs=EPOCHS, model=model, max_steps=max_steps
    ):
        learner.step(stream, batch, 1.0)
        steps.append({name: column.numpy().copy() for name, column in batch.items()})
    return stream, model, steps


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_run_trains_rows_of_every_epoch_and_learns(kind) -> None:
    stream, model, steps = train(spec_of(kind))
    rows = {name: np.concatenate([step[name] for step in steps]) for name in (ID, POOL, WEIGHT)}
    real = rows[WEIGHT] > 0
    epochs = stream.plan.epoch_of(rows[POOL][real])
    assert set(epochs.tolist()) == set(range(EPOCHS))
    assert real.sum() == stream.num_backpropped
    chances = np.concatenate([step[PROBABILITY] for step in steps])[real]
    assert ((chances > 0) & (chances <= 1)).all()
    if kind != "importance_sampling":  # which may draw a row twice
        pairs = list(zip(epochs, rows[ID][real], strict=True))
        assert len(pairs) == len(set(pairs))
    sums = stream.ledger.totals.epochs
    assert sum(each.num_selected for each in sums.values()) == real.sum()
    assert all(each.num_offered == ROWS for each in sums.values())
    assert sum(each.num_scored for each in sums.values()) == stream.num_scored
    data = columns()
    with torch.no_grad():
        right = model(torch.from_numpy(data["x"])).argmax(1).numpy() == data["label"]
    assert right.mean() > 0.5


@pytest.mark.parametrize("kind", SELECTORS)
def test_a_run_that_goes_on_equals_the_uninterrupted_one(kind) -> None:
    """The cut is where no selected row waits, the only place at which one process can be cut
    without reading rows again."""
    whole = train(spec_of(kind))
    newest = [int(step[POOL].max()) for step in whole[2]]
    cuts = [
        i
        for i in range(5, len(newest) - 2)
        if newest[i] < whole[2][i + 1][POOL].min() and newest[i] >= 1.2 * ROWS / POOL_ROWS
    ]
    if not cuts:
        pytest.skip("every batch of this run spans two pools")
    at = cuts[0] + 1
    first = train(spec_of(kind), max_steps=at)
    rest = train(spec_of(kind), state=(first[0].state_dict(), first[1].state_dict()))
    assert len(rest[2]) == len(whole[2]) - at
    for ours, theirs in zip(rest[2], whole[2][at:], strict=True):
        for name in (ID, PROBABILITY, WEIGHT):
            np.testing.assert_array_equal(ours[name], theirs[name])
    for ours, theirs in zip(rest[1].parameters(), whole[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", SELECTORS)
def test_the_loader_gives_the_batches_of_the_local_engine(kind) -> None:
    *_, steps = train(spec_of(kind))
    model, loss = net(), cross_entropy("label")
    loader = raysb.SelectiveLoader(
        columns(),
        model=model,
        loss=loss,
        forward=inputs("x"),
        selector=SELECTORS[kind](**ARGS.get(kind, {})),
        batch_size=BATCH,
        epochs=EPOCHS,
        scoring=Scoring(batch_size=POOL_ROWS),
        data=raysb.Data(inputs=("x",)),
        seed=3,
    )
    optimizer, given = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(EPOCHS):
        for batch in loader:
            model.train()
            losses = loss(model(batch["x"]), batch)
            loader.record(losses, batch)
            optimizer.zero_grad()
            (losses * batch[WEIGHT]).sum().div((batch[WEIGHT] > 0).sum()).backward()
            optimizer.step()
            given.append(batch[ID].numpy().copy())
    assert len(given) == len(steps)
    same = [np.array_equal(ours, step[ID]) for ours, step in zip(given, steps, strict=True)]
    assert all(same[: len(same) // 2]), "until a rounding of the sum tips a draw"
    assert np.mean(same) > 0.5


# --- the loss that is ranked ---------------------------------------------------------------------


def losses_of_both(dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every row trained the scorer's loss, the trainer's just before its step, and the age."""
    spec = dataclasses.replace(
        spec_of("selective_backprop"), scoring=Scoring(batch_size=POOL_ROWS, dtype=dtype)
    )
    stream, model = LocalStream(spec), net()
    learner = Learner(spec.task, model, torch.optim.SGD(model.parameters(), 0.1))
    rows = []
    for batch in stream.iter_batches(batch_size=BATCH, epochs=EPOCHS, model=model):
        assert model.training
        own = spec.task.loss(model(batch["x"]), batch).detach()
        age = stream.num_steps - batch[WEIGHTS_STEP]
        real = batch[WEIGHT] > 0
        rows.append([column[real].numpy().copy() for column in (batch[LOSS], own, age)])
        learner.step(stream, batch, 1.0)
    scored, own, age = map(np.concatenate, zip(*rows, strict=True))
    return scored, own, age


def test_the_scorers_loss_is_the_trainers_at_the_same_weights_to_1e_6() -> None:
    """The scorer takes 64 rows at once in evaluation mode, the trainer 20 of several pools."""
    scored, own, age = losses_of_both("float32")
    same = age == 0
    assert same.sum() > 300
    np.testing.assert_allclose(scored[same], own[same], rtol=1e-6, atol=1e-6)
    assert np.median(np.abs(scored - own)[age > 0]) > 1e-3  # of other weights it is another


def test_in_bfloat16_the_scorer_ranks_rows_as_the_trainer_does() -> None:
    scored, own, age = losses_of_both("bfloat16")
    same = age == 0
    assert np.abs(scored - own)[same].max() > 1e-4
    assert spearmanr(scored[same], own[same]).statistic >= 0.999


# --- what changes a selector's choice -----------------------------------------------------------


def test_a_cap_a_class_floor_and_exploration_hold_in_a_run() -> None:
    spec = spec_of("selective_backprop", adjust=Adjustments(max_selected=2))
    *_, steps = train(spec)
    counts = np.bincount(np.concatenate([s[ID][s[WEIGHT] > 0] for s in steps]))
    assert counts.max() == 2
    *_, free = train(spec_of("selective_backprop"))
    assert np.bincount(np.concatenate([s[ID][s[WEIGHT] > 0] for s in free])).max() > 2

    spec = spec_of("highest_k", adjust=Adjustments(class_floor=0.5))
    *_, steps = train(spec)
    rows = {name: np.concatenate([s[name] for s in steps]) for name in (POOL, "label", WEIGHT)}
    source = ArraySource(columns(), seed=3)
    for pool in range(ROWS // POOL_ROWS):
        of_pool = np.bincount(
            source.read(0, pool * POOL_ROWS, (pool + 1) * POOL_ROWS)["label"], minlength=10
        )
        mine = (rows[POOL] == pool) & (rows[WEIGHT] > 0)
        taken = np.bincount(rows["label"][mine], minlength=10)
        assert (taken >= np.rint(0.5 * of_pool)).all()

    *_, few = train(spec_of("lowest_k"))
    *_, more = train(spec_of("lowest_k", adjust=Adjustments(explore=0.5)))
    kept = [sum((s[WEIGHT] > 0).sum() for s in steps) / ROWS / EPOCHS for steps in (few, more)]
    assert kept[0] == pytest.approx(0.6)
    assert kept[1] == pytest.approx(0.6 + 0.4 * 0.5, abs=0.04)


def test_a_pool_that_is_scored_again_is_capped_again_alike() -> None:
    stream, model = LocalStream(spec_of("highest_k", adjust=Adjustments(max_selected=1))), net()
    batches = stream.iter_batches(batch_size=BATCH, epochs=1, model=model)
    next(batches)
    first = stream.history.lookup(np.arange(ROWS))
    again = stream.rows_of(stream.plan, 0)[ID]
    assert sorted(again.tolist()) == np.flatnonzero(first.selected).tolist()


def test_rows_that_are_not_finite_shift_nobodys_class_or_count() -> None:
    """What is adjusted is said by position among the finite rows, not in the pool."""
    rng = np.random.default_rng(0)
    losses, classes = rng.exponential(size=60).astype(np.float32), rng.integers(3, size=60)
    losses[::7] = np.nan
    task = Task(
        model=lambda: nn.ParameterList([nn.Parameter(torch.ones(()))]),
        forward=lambda model, batch: batch["x"],
        loss=lambda outputs, batch: outputs,
    )
    times = np.where(np.arange(60) % 2, 5, 0)
    scoring = PoolScoring(
        task=task,
        selector=SELECTORS["highest_k"](fraction=0.01),
        seed=1,
        adjustments=Adjustments(class_floor=1.0, max_selected=3),
        classes="label",
    )
    batch = {"x": losses, "label": classes, ID: np.arange(60), POOL: np.zeros(60, np.int64)}
    chosen = scoring(
        task.build(0),
        batch,
        window=np.empty(0, np.float32),
        weights_step=0,
        epoch=0,
        times_selected=times,
    )
    free = np.flatnonzero(np.isfinite(losses) & (times < 3))
    assert chosen.rows[ID].tolist() == free.tolist()


@pytest.mark.parametrize("kind", ["stale_selective_backprop", "info_batch", "uniform"])
def test_adjusting_what_is_chosen_before_it_is_scored_is_refused(kind) -> None:
    with pytest.raises(ValueError, match="chosen before anything could be adjusted"):
        spec_of(kind, adjust=Adjustments(explore=0.1))


@pytest.mark.parametrize(
    ("kind", "by"),
    [("importance_sampling", "loss"), ("reducible_loss", "entropy"), ("info_batch", "el2n")],
)
def test_a_selector_that_is_defined_on_one_score_takes_no_other(kind, by) -> None:
    spec = spec_of("uniform")
    with pytest.raises(ValueError, match=f"scoring.score='{by}' with .* is defined on"):
        StreamSpec(
            source=spec.source,
            task=spec.task,
            selector=SELECTORS[kind](),
            scoring=Scoring(score=by),
            inputs=("x",),
        )


@pytest.mark.parametrize("by", ["entropy", "margin", "el2n", "gradient_norm_bound"])
def test_selective_backprop_ranks_whatever_score_is_named(by) -> None:
    """Among the rows of a batch a larger score never has the smaller chance."""
    spec = spec_of("selective_backprop")
    spec = StreamSpec(
        source=spec.source,
        task=spec.task,
        selector=spec.selector,
        scoring=Scoring(batch_size=POOL_ROWS, score=by),
        inputs=("x",),
        seed=3,
    )
    _, _, steps = train(spec, max_steps=3)
    pools = np.concatenate([s[POOL] for s in steps])
    for pool in set(pools.tolist()):
        mine = pools == pool
        score = np.concatenate([s["score"] for s in steps])[mine]
        chance = np.concatenate([s[PROBABILITY] for s in steps])[mine]
        order = np.argsort(score)
        assert (np.diff(chance[order]) >= -1e-7).all()
        losses = np.concatenate([s["loss"] for s in steps])[mine]
        assert not np.allclose(losses, score)


def test_losses_of_small_pictures_are_checked_at_that_size() -> None:
    """A run on Ray compares the scorer's losses with the worker's before its first step."""
    images, labels = load_digits(return_X_y=True)
    picture = (images[:200].reshape(-1, 8, 8, 1) * 15).astype(np.uint8)

    def build():
        torch.manual_seed(2)
        head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *head)

    def spec(scale):
        return StreamSpec(
            source=ArraySource({"image": picture, "label": labels[:200]}),
            task=Task(
                model=build, forward=inputs("image", mean=(0.3,), std=(0.3,)), loss=cross_entropy()
            ),
            selector=SELECTORS["selective_backprop"](min_probability=1.0),
            scoring=Scoring(batch_size=POOL_ROWS, image_scale=scale),
            inputs=("image",),
        )

    losses = []
    for scale in (1.0, 0.5):
        stream = LocalStream(spec(scale))
        stream._check = True  # off in one process, where scorer and worker are one model
        losses.append(
            next(stream.iter_batches(batch_size=BATCH, epochs=1, model=build()))["loss"].numpy()
        )
    assert np.abs(losses[0] - losses[1]).max() > 1e-3
    with pytest.raises(ValueError, match="would be ranked among those of small pictures"):
        StreamSpec(
            source=ArraySource({"image": picture, "label": labels[:200]}),
            task=spec(1.0).task,
            selector=SELECTORS["stale_selective_backprop"](),
            scoring=Scoring(image_scale=0.5),
            inputs=("image",),
        )
