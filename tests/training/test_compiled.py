"""A compiled forward pass gives the losses of a plain one, and is compiled once."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from raysb.errors import ResourceError
from raysb.history.settings import History
from raysb.job import Silent, TrainingJob
from raysb.local import fit_locally
from raysb.losses import cross_entropy
from raysb.report.records import read_metrics
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.checkpoints import Checkpoints
from raysb.training.compiled import compiled
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

pytestmark = pytest.mark.slow

ROWS, B = 150, 16  # selected rows never fill the last batch


def net():
    return nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 3))


def columns(rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8)).astype(np.float32)
    return {"x": x, "label": (x @ np.ones((8, 3)) + x[:, :3]).argmax(1)}


def fitted(folder, **training):
    folder.mkdir()
    settings = {"epochs": 3, "batch_size": B, "lr": 0.1, "use_gpu": False, "checkpoint_every": 3}
    job = TrainingJob(
        spec=StreamSpec(
            source=ArraySource(columns(ROWS, 1), seed=1),
            task=Task(model=net, forward=inputs("x"), loss=cross_entropy("label")),
            selector=SelectiveBackprop(),
            scoring=Scoring(batch_size=50),
            inputs=("x",),
        ),
        training=Training(**settings | training),
        evaluation=Evaluation(every=4),
        history=History(),
        held_out=ArraySource(columns(70, 5), seed=0),
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )
    return fit_locally(job)


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_losses_are_those_of_the_plain_model_and_nothing_is_compiled_twice(tmp_path, fresh) -> None:
    """Over whole pools that are scored, evaluations, checkpoints and the padded last batch."""
    plain = fitted(tmp_path / "plain")
    assert not fresh["stats"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        result = fitted(tmp_path / "compiled", compile=True)
    assert fresh["stats"]["unique_graphs"] == 1
    assert not fresh["graph_break"]
    assert result.metrics["num_backpropped"] % B  # the last one was padded
    for one, other in zip(*(losses(tmp_path / n) for n in ("plain", "compiled")), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert plain.metrics["step"] == result.metrics["step"]


def losses(folder):
    lines = [line for line in read_metrics(folder) if line["kind"] == "eval"]
    return [line[name] for line in lines for name in ("train/loss", "eval/loss")]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_saves_the_names_of_the_plain_model(tmp_path, fresh) -> None:
    fitted(tmp_path / "run", compile=True)
    checkpoints = Checkpoints(folder=str(tmp_path / "run"))
    model = net()
    checkpoints.load(checkpoints.newest(), model)  # strict
    assert not [name for name in model.state_dict() if "_orig_mod" in name]


@pytest.mark.filterwarnings("ignore")
def test_precision_and_accumulation_compile_once_too(tmp_path, fresh) -> None:
    with torch._dynamo.config.patch(error_on_recompile=True):
        fitted(tmp_path / "run", compile=True, dtype="bfloat16", accumulate=2, ema=0.9)
    assert fresh["stats"]["unique_graphs"] == 1


def test_the_model_itself_stays_as_it_is() -> None:
    model = net()
    before = copy.deepcopy(model)
    wrapped = compiled(model)
    assert wrapped is not model
    assert type(model) is nn.Sequential
    torch.testing.assert_close(model.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_a_machine_without_a_compiler_is_told_before_the_first_step(monkeypatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ResourceError, match=r"train\.compile=true: .*no compiler on this machine"):
        compiled(net())


@pytest.mark.parametrize("strategy", ["fsdp", "data_parallel", "model_parallel"])
def test_strategies_that_are_not_compiled_are_refused(strategy) -> None:
    with pytest.raises(ValueError, match=r"train\.compile=true: not with train\.strategy"):
        Training(strategy=strategy, compile=True)
