"""Statistics for pruning, from training steps: whose they are, and that training is as without."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ray.train import RunConfig
from torch import nn

import raysb
import raysb.selection
from raysb.errors import ModelError
from raysb.prune.criteria import Statistics, collect
from raysb.selection import Adjustments
from raysb.source.arrays import ArraySource
from raysb.training.channel_statistics import check_selection, saved_statistics
from raysb.training.checkpoint import load_learner
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Training

ROWS = 400
KINDS = ("activation", "gradient", "per_sample_gradient")
TERMS = ("zeros", "taylor", "gate", "gate_squared", "filter_squared", "gradient_squared")
LAYERS = ("0", "3", "6")


def build(norm=nn.Identity):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), norm(6), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def rows():
    """Noisy patterns of three classes, from easy rows to hopeless ones."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, ROWS)
    noise = 3 * rng.random((ROWS, 1, 1, 1)) * rng.normal(size=(ROWS, 1, 8, 8))
    image = rng.normal(size=(3, 1, 8, 8))[label] + noise
    return {"image": image.astype(np.float32), "label": label}


def trainer(folder, *, model=build, selector=None, resume=False, seed=0, **settings):
    given = {"lr": 0.0, "batch_size": 25, "epochs": 1, "num_threads": 1, "statistics_every": 1}
    return raysb.SelectiveTrainer(
        model=model,
        loss=raysb.losses.cross_entropy("label"),
        datasets={"train": ArraySource(rows())},
        forward=raysb.inputs("image"),
        selector=selector or raysb.Uniform(),
        training=Training(**given | {"statistics": KINDS} | settings),
        run_config=RunConfig(storage_path=str(folder), name="run"),
        resume=resume,
        engine="local",
        seed=seed,
    )


def left(folder) -> Statistics:
    checkpoints = Checkpoints(folder=str(folder / "run"))
    with checkpoints.local(checkpoints.newest()) as inside:
        return saved_statistics(load_learner(inside))


@pytest.fixture(scope="module")
def population() -> Statistics:
    """By a pass over all rows, at the weights that every run with rate 0 keeps."""
    job = trainer("unused").job
    model, task = job.spec.task.build(0), job.spec.task
    batch = task.tensors(rows())
    return collect(model, task.outputs, task.losses, [batch], KINDS)


def test_under_uniform_they_are_those_of_a_pass_over_all_rows(tmp_path, population) -> None:
    trainer(tmp_path).fit()
    found = left(tmp_path)
    assert found.rows == ROWS
    for name in LAYERS:
        for term in TERMS:
            told, wanted = found[name].mean(term), population[name].mean(term)
            torch.testing.assert_close(told, wanted, rtol=1e-4, atol=1e-9)
        pooled, weights = found[name].pooled.rows()
        wanted = population[name].pooled.rows()[0].mean(0)
        torch.testing.assert_close(pooled.mean(0), wanted, rtol=1e-4, atol=1e-6)
        assert (weights == 1).all()


def test_selection_does_not_bias_them(tmp_path, population) -> None:
    """16 runs of Selective-Backprop: the mean lies within 4.5 standard errors in each channel."""
    selector = {"beta": 1.0, "min_probability": 0.1, "history": ROWS}
    runs = []
    for seed in range(16):
        out = tmp_path / str(seed)
        trained = trainer(out, model=lambda: seeded(0), seed=seed, epochs=2, batch_size=10,
                          selector=raysb.SelectiveBackprop(**selector))  # fmt: skip
        trained.fit()
        runs.append(left(out))
    assert max(run.rows for run in runs) < 0.8 * ROWS
    truth = population_of(seeded(0))
    for name in LAYERS:
        for term in ("taylor", "gate_squared", "zeros"):
            each = torch.stack([run[name].mean(term) for run in runs])
            error = (each.mean(0) - truth[name].mean(term)).abs()
            assert (error <= 4.5 * each.std(0) / len(runs) ** 0.5 + 1e-12).all(), (name, term)


def seeded(seed):
    torch.manual_seed(seed)
    return build()


def population_of(model) -> Statistics:
    task = trainer("unused").job.spec.task
    return collect(model, task.outputs, task.losses, [task.tensors(rows())], KINDS)


@pytest.mark.parametrize("accumulate", [1, 5])
def test_training_is_the_same_to_the_bit_with_and_without_them(tmp_path, accumulate) -> None:
    settings = {"lr": 0.1, "accumulate": accumulate, "clip_norm": 1.0}
    ends = []
    for kinds in (KINDS, ()):
        out = tmp_path / str(len(kinds))
        trainer(out, statistics=kinds, selector=raysb.SelectiveBackprop(), **settings).fit()
        ends.append(raysb.load_model(out / "run", build).state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_resumed_run_goes_on_with_them(tmp_path) -> None:
    """They begin anew with each epoch: stopped in the second, and 6 steps after it has begun."""
    for out, steps in (("whole", 24), ("parts", 22), ("parts", 24)):
        settings = {"epochs": 3, "max_steps": steps, "lr": 0.1, "statistics_every": 2}
        resume = steps == 24 and out == "parts"
        trainer(tmp_path / out, resume=resume, **settings).fit()
    whole, parts = left(tmp_path / "whole"), left(tmp_path / "parts")
    assert whole.rows == (8 + 4) * 25  # of the first epoch, and of what came since
    for name in LAYERS:
        assert whole[name].sums.keys() == parts[name].sums.keys()
        for term, value in whole[name].sums.items():
            assert torch.equal(value, parts[name].sums[term])
        for mine, its in zip(
            whole[name].gradients.rows(), parts[name].gradients.rows(), strict=True
        ):
            assert torch.equal(mine, its)


def test_every_nth_step_is_looked_at_and_an_epoch_replaces_the_one_before(tmp_path) -> None:
    trainer(tmp_path, epochs=3, statistics_every=4).fit()
    assert left(tmp_path).rows == 4 * 25  # steps 32, 36, 40 and 44 of the third epoch


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "fsdp", "num_workers": 2},
        {"strategy": "pipeline", "num_workers": 2, "accumulate": 4},
        {"strategy": "data_parallel"},
        {"strategy": "model_parallel"},
        {"compile": True},
    ],
)
def test_what_cannot_be_watched_is_refused(settings) -> None:
    with pytest.raises(
        ValueError, match=r"train\.statistics=.*: not with train\.(strategy|compile)"
    ):
        Training(statistics=KINDS, batch_size=24, **settings)


def test_rows_that_see_each_other_are_refused(tmp_path) -> None:
    with (
        pytest.warns(UserWarning, match="batch statistics"),
        pytest.raises(ModelError, match=r"the model has batch statistics .*through which rows"),
    ):
        trainer(tmp_path, model=lambda: build(nn.BatchNorm2d), selector=raysb.SelectiveBackprop())


def test_a_model_whose_layers_are_frozen_has_no_channels_to_rank(tmp_path) -> None:
    def frozen():
        model = build()
        for name in LAYERS:
            model[int(name)].requires_grad_(False)
        return model.append(nn.PReLU())

    with pytest.raises(ModelError, match="no convolution and no linear layer of the model is"):
        trainer(tmp_path, model=frozen)


def test_a_selector_that_never_trains_some_rows_is_refused_unless_others_are_explored() -> None:
    for selector in (raysb.selection.HighestK(), raysb.selection.ConfidenceBand()):
        with pytest.raises(ValueError, match="never selects some of the rows"):
            check_selection(selector, Adjustments())
        check_selection(selector, Adjustments(explore=0.1))
    check_selection(raysb.SelectiveBackprop(), Adjustments())
    check_selection(raysb.Uniform(), Adjustments())


GLOO = """
import sys
sys.path.insert(0, {folder!r})
from test_parallel import B, Given, build, rows, squares
from raysb.prune.criteria import Statistics, collect
from raysb.schema import PROBABILITY
from raysb.task import Task, inputs
from raysb.training.channel_statistics import STATISTICS, saved_statistics
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.settings import Training

def drawn(count, start):
    p = np.random.default_rng(start + 1).uniform(.1, 1, count).astype(np.float32)
    return {{**rows(count, start), PROBABILITY: p}}

BLOCKS = [[drawn(40, 0), drawn(24, 40)], [drawn(13, 100), drawn(30, 120)]]  # 64 and 43 rows
task = Task(model=build, forward=inputs("x"), loss=squares)
exchange, found = Exchange(), {{}}
torch.manual_seed(0)
module = build()
whole = {{k: np.concatenate([b[k] for own in BLOCKS for b in own]) for k in BLOCKS[0][0]}}
tensors = {{k: torch.from_numpy(v) for k, v in whole.items()}}
expected = collect(module, task.outputs, task.losses, [tensors], {{"gradient"}},
                   row_weights=lambda b: 1 / b[PROBABILITY].double())
for normalize in ("rows", "weights"):
    training = Training(batch_size=B, num_workers=2, lr=0.0, statistics=["gradient"],
                        statistics_every=1, normalize=normalize, accumulate=2)
    learner = Learner.build(task, module, training, [torch.device("cpu")])
    stream = Given(BLOCKS[rank], exchange)
    for batch in stream.iter_batches(batch_size=B, epochs=1, model=learner.module):
        learner.step(stream, batch, 1.0)
    state = learner.statistics(stream)
    kept = saved_statistics(state)
    found[normalize] = {{
        "rows": kept.rows,
        "off": max(float((kept[n].mean(t) / expected[n].mean(t) - 1).abs().max())
                   for n in kept for t in ("taylor", "gate_squared", "filter_squared")),
    }}
    again = Learner.build(task, module, training, [torch.device("cpu")])
    again.load_state_dict(learner.state_dict() | state, rank)
    later = again.statistics(stream)  # every worker holds some of it, or none: the sum is the same
    found[normalize]["again"] = saved_statistics(later).rows
"""


@pytest.mark.gloo
def test_two_processes_add_up_what_one_pass_over_all_their_rows_gives(gloo) -> None:
    """ddp, weights of rows beside 1/p, padding at the end, micro-batches; and they go on so."""
    for found in gloo(GLOO.format(folder=str(Path(__file__).parent)), workers=2):
        for normalize in ("rows", "weights"):
            assert found[normalize]["rows"] == found[normalize]["again"] == 107
            assert found[normalize]["off"] < 1e-9
