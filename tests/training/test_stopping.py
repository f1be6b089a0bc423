"""Training ends at the evaluation at which patience is over, and the best one is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

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
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec
from raysb.training.stopping import EarlyStopping

EVERY = 3


def net():
    return nn.Linear(8, 3)


def columns(rows, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8)).astype(np.float32)
    noise = rng.normal(size=(rows, 3))
    return {"x": x, "label": (x @ np.ones((8, 3)) + x[:, :3] + noise).argmax(1)}


def job_in(folder, every=EVERY, held_out=True, **training):
    """A learning rate at which the test error goes up and down."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"epochs": 6, "batch_size": 16, "lr": 3.0, "use_gpu": False, "schedule": "constant"}
    return TrainingJob(
        spec=StreamSpec(
            source=ArraySource(columns(160, 1), seed=1),
            task=Task(model=net, forward=inputs("x"), loss=cross_entropy("label")),
            selector=SelectiveBackprop(),
            scoring=Scoring(batch_size=40),
            inputs=("x",),
        ),
        training=Training(**settings | training),
        evaluation=Evaluation(every=every),
        history=History(),
        held_out=ArraySource(columns(300, 5), seed=0) if held_out else None,
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )


def evaluations(folder):
    """Step and error of each, without the one after the last step that patience knows nothing of"""
    lines = [line for line in read_metrics(folder) if line["kind"] in ("eval", "epoch")]
    return {line["step"]: line["eval/error"] for line in lines}


def ends_at(errors, patience):
    """By hand: the first evaluation with none better among the last so many."""
    steps = list(errors)
    for i, step in enumerate(steps):
        if i >= patience and min(list(errors.values())[: i - patience + 1]) <= min(
            errors[s] for s in steps[i - patience + 1 : i + 1]
        ):
            return step
    return None


@pytest.mark.parametrize("every", [EVERY, 0])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_ends_at_the_very_evaluation_that_a_hand_computation_gives(
    tmp_path, every, patience
) -> None:
    fit_locally(job_in(tmp_path / "whole", every))
    errors = evaluations(tmp_path / "whole")
    expected = ends_at(errors, patience)
    result = fit_locally(job_in(tmp_path / "early", every, patience=patience))
    assert expected is not None
    assert expected < max(errors)
    assert result.metrics["step"] == expected
    assert result.metrics["stopped_by"] == f"train.patience={patience}"
    assert evaluations(tmp_path / "early") == {s: e for s, e in errors.items() if s <= expected}


def test_a_run_that_patience_ended_ends_at_once_when_resumed_and_goes_on_with_more(
    tmp_path,
) -> None:
    first = fit_locally(job_in(tmp_path / "run", patience=1))
    again = fit_locally(job_in(tmp_path / "run", patience=1))
    assert first.metrics["step"] == again.metrics["step"]
    assert again.metrics["stopped_by"] == "train.patience=1"
    fit_locally(job_in(tmp_path / "whole"))
    expected = ends_at(evaluations(tmp_path / "whole"), 2)
    more = fit_locally(job_in(tmp_path / "run", patience=2))
    assert more.metrics["step"] == expected > first.metrics["step"]


@given(
    st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=12), st.integers(1, 4)
)
def test_patience_is_over_when_none_of_the_last_evaluations_is_the_best_so_far(
    scores, patience
) -> None:
    stopping = EarlyStopping(patience)
    for i, score in enumerate(scores):
        before = [s for s in scores[:i] if s == s]
        assert stopping.update(score) == (score == score and score < min(before, default=2.0))
        finite = [s if s == s else np.inf for s in scores[: i + 1]]
        since = i - int(np.argmin(finite)) if min(finite) < np.inf else i + 1
        assert stopping.over == (since >= patience)


def test_the_best_checkpoint_is_the_one_of_the_least_error_of_all_evaluations(tmp_path) -> None:
    fit_locally(job_in(tmp_path, save_best=True, keep_checkpoints=1))
    errors = evaluations(tmp_path)
    least = min(errors, key=lambda step: errors[step])
    checkpoints = Checkpoints(folder=str(tmp_path), keep=1)
    best, newest = checkpoints.best(), checkpoints.newest()
    assert (best.step, best.score) == (least, errors[least])
    assert best.step < newest.step
    left = load_file(tmp_path / "model_best.safetensors")
    model = net()
    model.load_state_dict(left)
    rows = {name: torch.from_numpy(column) for name, column in columns(300, 5).items()}
    wrong = (model(rows["x"]).argmax(1) != rows["label"]).float().mean()
    assert float(wrong) == pytest.approx(errors[least])
    assert not torch.equal(left["weight"], load_file(tmp_path / "model.safetensors")["weight"])


def test_a_best_evaluation_at_an_epochs_end_is_saved_before_the_next_step(tmp_path) -> None:
    fit_locally(job_in(tmp_path, every=0, save_best=True, keep_checkpoints=1))
    errors = evaluations(tmp_path)
    best = Checkpoints(folder=str(tmp_path)).best()
    assert best.step == min(errors, key=lambda step: errors[step])


def test_saving_the_best_changes_nothing_of_what_is_trained(tmp_path) -> None:
    for name, on in (("on", True), ("off", False)):
        fit_locally(job_in(tmp_path / name, every=0, save_best=on))
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("on", "off"))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not (tmp_path / "off" / "model_best.safetensors").exists()


@pytest.mark.parametrize("setting", [{"patience": 2}, {"save_best": True}])
def test_without_rows_to_evaluate_on_there_is_no_best(tmp_path, setting) -> None:
    with pytest.raises(ValueError, match=r"train\.\w+=\w+: there are no rows to evaluate on"):
        job_in(tmp_path, held_out=False, **setting)


@pytest.mark.parametrize("patience", [0, -1, 1.5, True])
def test_a_patience_that_is_no_count_is_refused(patience) -> None:
    with pytest.raises(ValueError, match=r"train\.patience=.*at least 1, or none"):
        Training(patience=patience)
