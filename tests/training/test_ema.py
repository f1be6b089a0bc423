"""The average of the weights is that of torch's AveragedModel beside a plain loop."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raysb.config import load
from raysb.history.settings import History
from raysb.job import Silent, TrainingJob
from raysb.local import fit_locally
from raysb.losses import cross_entropy
from raysb.nn.freeze import freeze
from raysb.report.directory import newest_weights
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop, Uniform
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training import checkpoint
from raysb.training.checkpoints import Checkpoints
from raysb.training.ema import Average
from raysb.training.learner import Learner
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

DECAY = 0.9
EXACT = {"rtol": 0, "atol": 0}


def net():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def half_frozen():
    model = net()
    freeze(model, ["0"])
    return model


def columns(rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8)).astype(np.float32)
    return {"x": x, "label": (x @ rng.normal(size=(8, 3))).argmax(1)}


def job_in(folder, model=net, selector=None, **training):
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"epochs": 2, "batch_size": 16, "lr": 0.2, "use_gpu": False, "schedule": "constant"}
    return TrainingJob(
        spec=StreamSpec(
            source=ArraySource(columns(160), seed=1),
            task=Task(model=model, forward=inputs("x"), loss=cross_entropy("label")),
            selector=selector or Uniform(),
            scoring=Scoring(batch_size=40),
            inputs=("x",),
        ),
        training=Training(**settings | {"ema": DECAY} | training),
        evaluation=Evaluation(),
        history=History(),
        held_out=ArraySource(columns(90, seed=5), seed=0),
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )


class Watched(torch.optim.SGD):
    """Averages beside the run, as torch's documentation does."""

    made = None

    def __init__(self, model):
        super().__init__(model.parameters(), 0.2)
        Watched.made, self.model = self, model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def step(self, closure=None):
        super().step(closure)
        self.averaged.update_parameters(self.model)


def test_a_run_leaves_the_average_that_torch_computes_beside_it(tmp_path) -> None:
    job = job_in(tmp_path, selector=SelectiveBackprop())
    fit_locally(TrainingJob(**vars(job) | {"optimizer": lambda model: Watched(model)}))
    expected = Watched.made.averaged.module.state_dict()
    left = load_file(tmp_path / "model.safetensors")
    assert left.keys() == expected.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, expected[name], **EXACT)
    live = Watched.made.model.state_dict()
    assert not torch.equal(left["3.weight"], live["3.weight"])
    newest = Checkpoints(folder=str(tmp_path)).newest()
    of_checkpoint = load_file(tmp_path / newest.name / "model.safetensors")
    torch.testing.assert_close(of_checkpoint["3.weight"], live["3.weight"], **EXACT)


def test_what_is_evaluated_is_the_average(tmp_path) -> None:
    end = fit_locally(job_in(tmp_path)).metrics
    model = net()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    rows = {name: torch.from_numpy(column) for name, column in columns(90, seed=5).items()}
    with torch.no_grad():
        logits = model.eval()(rows["x"])
    assert end["eval/loss"] == pytest.approx(float(F.cross_entropy(logits, rows["label"])))
    wrong = (logits.argmax(1) != rows["label"]).float().mean()
    assert end["eval/error"] == pytest.approx(float(wrong))


def test_averaging_changes_nothing_of_what_is_trained(tmp_path) -> None:
    live = []
    for name, ema in (("on", DECAY), ("off", None)):
        fit_locally(job_in(tmp_path / name, selector=SelectiveBackprop(), ema=ema))
        newest = Checkpoints(folder=str(tmp_path / name)).newest()
        live.append(load_file(tmp_path / name / newest.name / "model.safetensors"))
    for name in live[0]:
        torch.testing.assert_close(live[0][name], live[1][name], **EXACT)


def test_frozen_parts_are_not_saved_with_the_average_and_are_in_the_exported_one(tmp_path) -> None:
    fit_locally(job_in(tmp_path, half_frozen))
    newest = Checkpoints(folder=str(tmp_path)).newest()
    assert "0.weight" not in load_file(tmp_path / newest.name / "ema.safetensors")
    whole = load_file(tmp_path / "model.safetensors")
    built = job_in(tmp_path, half_frozen).spec.task.build(0)
    torch.testing.assert_close(whole["0.weight"], built[0].weight.detach(), **EXACT)
    saved = load_file(tmp_path / newest.name / "ema.safetensors")
    torch.testing.assert_close(whole["3.weight"], saved["3.weight"], **EXACT)


def test_of_a_run_that_did_not_end_the_average_is_what_is_loaded(tmp_path) -> None:
    fit_locally(job_in(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert newest_weights(tmp_path).name == "ema.safetensors"


def test_an_average_begins_where_a_run_without_one_is_resumed(tmp_path) -> None:
    fit_locally(job_in(tmp_path, ema=None, epochs=1))
    fit_locally(job_in(tmp_path, epochs=2))
    entries = Checkpoints(folder=str(tmp_path)).entries()
    before = load_file(tmp_path / entries[0].name / "model.safetensors")
    average = load_file(tmp_path / entries[-1].name / "ema.safetensors")
    assert not torch.equal(average["3.weight"], before["3.weight"])
    with Checkpoints(folder=str(tmp_path)).local(entries[-1]) as folder:
        state = checkpoint.load(folder, model=net())
    assert state["learner"]["num_averaged"] == entries[-1].step - entries[0].step


def test_tied_weights_are_averaged_once_and_stay_tied(tmp_path) -> None:
    def tied():
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        return model

    model = tied()
    average, plain = Average(model, 0.5), copy.deepcopy(model[0].weight.detach())
    average.update(model)
    with torch.no_grad():
        model[0].weight += 1.0
    average.update(model)
    torch.testing.assert_close(average.module[1].weight.detach(), plain + 0.5)
    learner = {**average.state_dict(), "kind": "SGD"}
    checkpoint.save(tmp_path, model=model, learner=learner, stream={}, history=None)
    again = Average(tied(), 0.5)
    again.load_state_dict(checkpoint.load(tmp_path, model=tied())["learner"])
    torch.testing.assert_close(again.module[1].weight.detach(), plain + 0.5)
    assert again.module[0].weight is again.module[1].weight


@pytest.mark.parametrize("decay", ["0", "1", "-0.5", "1.5", "nan"])
def test_a_decay_out_of_range_is_refused(decay) -> None:
    with pytest.raises(ValueError, match=r"train\.ema=.*below 1, or none"):
        load(None, ("--train.ema", decay))


@pytest.mark.parametrize("strategy", ["fsdp", "pipeline"])
def test_strategies_whose_workers_hold_parts_have_no_average(strategy) -> None:
    with pytest.raises(ValueError, match=r"train\.ema=0\.9: train\.strategy=" + strategy):
        Training(strategy=strategy, num_workers=2, accumulate=2, ema=0.9)


def test_a_learner_averages_the_module_inside_a_wrapper() -> None:
    model = nn.Linear(2, 1)
    task = Task(model=net, forward=inputs("x"), loss=cross_entropy("label"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    learner = Learner(task, nn.DataParallel(model), optimizer, ema=0.5)
    assert list(learner.judged().state_dict()) == ["weight", "bias"]
