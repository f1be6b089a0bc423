"""A run that is killed and resumed equals the one that was not: ids, weights, history, metrics."""

import json
import os
import random
import shutil
import signal
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from raysb.config import load
from raysb.errors import RunDirectoryError
from raysb.history.settings import History
from raysb.inspect_history.records import read_history
from raysb.job import Silent, TrainingJob
from raysb.local import fit_locally
from raysb.losses import cross_entropy
from raysb.models import load_model
from raysb.report.directory import newest_weights
from raysb.report.records import read_metrics
from raysb.run import train
from raysb.scoring.settings import Scoring
from raysb.selection import (
    BudgetedSelection,
    ImportanceSampling,
    InfoBatch,
    SelectiveBackprop,
    StaleSelectiveBackprop,
    Uniform,
)
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training import checkpoint, checkpoints
from raysb.training.audit import read_audit
from raysb.training.checkpoints import Checkpoints
from raysb.training.folder import Folder
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

ROWS, BATCH, POOL, EPOCHS = 500, 16, 70, 4
SELECTORS = {
    "uniform": Uniform(),
    "sb": SelectiveBackprop(beta=1.0, history=256),
    "stale": StaleSelectiveBackprop(beta=1.0, refresh_every=2),
    "info_batch": InfoBatch(),
    "importance": ImportanceSampling(),
    "budgeted": BudgetedSelection(rows_per_epoch=230),
}


def net():
    """It draws: a resumed run must go on with the random numbers that come next."""
    return nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Dropout(0.3), nn.Linear(24, 10))


def job_in(folder, selector, **training):
    images, labels = load_digits(return_X_y=True)
    columns = {"x": (images / 16).astype(np.float32), "label": labels}
    train = {name: column[:ROWS] for name, column in columns.items()}
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.1, "checkpoint_every": 4}
    return TrainingJob(
        spec=StreamSpec(
            source=ArraySource(train, seed=3),
            task=Task(model=net, forward=inputs("x"), loss=cross_entropy("label")),
            selector=selector,
            scoring=Scoring(batch_size=POOL),
            seed=3,
            inputs=("x",),
        ),
        training=Training(use_gpu=False, audit=True, **settings | training),
        evaluation=Evaluation(),
        history=History(),
        held_out=ArraySource({name: column[-200:] for name, column in columns.items()}, seed=0),
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )


def left_behind(folder):
    """All that a run leaves, but for times."""
    newest = Checkpoints(folder=str(folder)).newest()
    with Checkpoints(folder=str(folder)).local(newest) as path:
        model = net()
        state = checkpoint.load(path, model=model)
    lines = [
        {name: v for name, v in line.items() if not name.endswith(("_s", "seconds"))}
        for line in read_metrics(folder)
        if line["kind"] in ("epoch", "eval", "end")
    ]
    for line in lines:
        del line["line"]  # lines of the clock, one a second, are counted too
    return {
        "weights": model.state_dict(),
        "optimizer": state["learner"]["optimizer"],
        "rngs": state["learner"]["rngs"],
        "average": state["learner"].get("average", model).state_dict(),
        "stopping": state["stream"]["loop"]["stopping"],
        "history": state["history"],
        "ring": state["stream"]["ledger"]["ring"],
        "cursor": state["stream"]["cursor"],
        "counters": state["stream"]["counters"],
        "metrics": lines,
        "trained": read_audit(folder / "audit").to_pydict(),
    }


def assert_same(one, other, at=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for name in one:
            assert_same(one[name], other[name], f"{at}/{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{at}/{i}")
    elif isinstance(one, np.ndarray | torch.Tensor):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=at)
    else:
        assert one == other or (one != one and other != other), (at, one, other)


def _of_checkpoint(*args):
    return os.path.basename(args[-1]).startswith("checkpoint_")


# what a run dies in: the owner of a function, its name, and which calls of it count
PLACES = {
    "step": (torch.optim.SGD, "step", None),
    "file": (checkpoint, "_lift", None),  # of arrays, before they are written
    "disk": (checkpoints, "_sync", None),  # of four files, the manifest, and the folder they are in
    "move": (os, "replace", _of_checkpoint),
    "removal": (Checkpoints, "_remove", None),  # of one that is older than those kept
    "half removed": (Folder, "join", lambda *args: len(args) == 2 and _of_checkpoint(*args)),
}


def killed(folder, selector, place, count, save=0, **training):
    """A run in a process of its own, killed at the n-th call of a place since its k-th save began.

    Args:
        folder: Its directory.
        selector: Of its rows.
        place: One of `PLACES`.
        count: n, counted from 1.
        save: k; 0: since the run began.
        **training: Settings.
    """
    child = get_context("fork").Process(
        target=_fit_and_die, args=(folder, selector, place, count, save), kwargs=training
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def _fit_and_die(folder, selector, place, count, save, **training):
    owner, name, counts = PLACES[place]
    function, saved, calls, saves = getattr(owner, name), Checkpoints.save, 0, 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += saves >= save and (counts is None or counts(*args))
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    def counted(*args, **kwargs):
        nonlocal calls, saves
        saves += 1
        calls = 0 if saves == save else calls
        return saved(*args, **kwargs)

    setattr(owner, name, dying)
    Checkpoints.save = counted
    folder.mkdir(parents=True, exist_ok=True)
    fit_locally(job_in(folder, selector, **training))
    os._exit(0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nobody disturbs, each made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            fit_locally(job_in(folder, SELECTORS[name]))
            made[name] = left_behind(folder)
        return made[name]

    return get


_random = random.Random(7)
BEFORE_ANY = [("stale", "step", 3, 0), ("sb", "file", 40, 1)]  # these begin anew
BETWEEN_SAVES = [
    (name, "step", _random.randrange(1, 5), 1 + i % 4) for i, name in enumerate(SELECTORS)
]
IN_A_SAVE = [
    (name, "file", _random.randrange(2, 96), 2 + i)
    for i, name in enumerate(("sb", "stale", "budgeted"))
]
IN_A_SAVE += [  # files that are written, the manifest too, and all that is left is the move
    *[("sb", "disk", 1, 2), ("stale", "disk", 3, 3), ("budgeted", "disk", 5, 4)],
    *[("info_batch", "move", 1, 3), ("importance", "move", 1, 4)],
]
AFTER_THE_MOVE = [
    ("budgeted", "disk", 6, 2),
    ("sb", "removal", 1, 3),
    ("stale", "half removed", 1, 3),
]
# runs of 52 and 48 steps: their last save takes the place of one of the same step
AT_THE_END = [("sb", "move", 1, 14), ("sb", "move", 2, 14), ("stale", "disk", 6, 13)]
KILLS = [
    *[(0, *kill) for kill in BEFORE_ANY],
    *[(4 * kill[-1], *kill) for kill in BETWEEN_SAVES],
    *[(4 * (kill[-1] - 1), *kill) for kill in IN_A_SAVE],
    *[(4 * kill[-1], *kill) for kill in AFTER_THE_MOVE],
    *[(4 * (kill[-1] - 1), *kill) for kill in AT_THE_END],
]


@pytest.mark.parametrize(("found", "name", "place", "count", "save"), KILLS)
def test_a_run_killed_anywhere_and_resumed_equals_the_whole_one(
    tmp_path, whole, found, name, place, count, save
) -> None:
    """And does no step again that the checkpoint it finds, of step `found`, has behind it."""
    folder, steps = tmp_path / "run", []
    killed(folder, SELECTORS[name], place, count, save)
    newest = Checkpoints(folder=str(folder)).newest()
    assert (newest.step if newest else 0) == found
    counting = register_optimizer_step_pre_hook(lambda *_: steps.append(1))
    try:
        fit_locally(job_in(folder, SELECTORS[name]))
    finally:
        counting.remove()
    assert len(steps) == whole(name)["counters"]["num_steps"] - found
    assert_same(left_behind(folder), whole(name))
    assert not list(folder.glob(".checkpoint*")) or place != "step"


def test_most_kills_leave_a_checkpoint_and_fall_into_a_later_save() -> None:
    """What the kills above are worth: a resume that does nothing would pass those that find 0."""
    kills = [*BEFORE_ANY, *BETWEEN_SAVES, *IN_A_SAVE, *AFTER_THE_MOVE, *AT_THE_END]
    assert len(kills) == len(KILLS) >= 20
    assert {name for name, *_ in kills} == {*SELECTORS}
    assert len(BEFORE_ANY) == 2
    assert {save for *_, save in IN_A_SAVE} == {2, 3, 4}
    assert {place for _, place, *_ in kills} == {*PLACES}


EXTRAS = {"ema": 0.9, "patience": 2, "dtype": "bfloat16", "save_best": True, "clip_norm": 0.5}
EXTRAS |= {"epochs": 20, "lr": 1.5, "schedule": "constant"}


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extras")
    metrics = fit_locally(job_in(folder, SELECTORS["sb"], **EXTRAS)).metrics
    assert metrics["stopped_by"] == "train.patience=2"
    return left_behind(folder), (folder / "model_best.safetensors").read_bytes()


@pytest.mark.parametrize("count", [5, 33, 52, 71])
def test_averages_patience_and_bfloat16_go_on_as_if_nothing_had_happened(
    tmp_path, stopped_early, count
) -> None:
    folder, (whole, best) = tmp_path / "run", stopped_early
    killed(folder, SELECTORS["sb"], "step", count, **EXTRAS)
    fit_locally(job_in(folder, SELECTORS["sb"], **EXTRAS))
    assert_same(left_behind(folder), whole)
    assert (folder / "model_best.safetensors").read_bytes() == best


def test_a_run_killed_again_and_again_equals_the_whole_one(tmp_path, whole) -> None:
    for count in (6, 6, 3, 9, 5):
        killed(tmp_path / "run", SELECTORS["stale"], "step", count)
    fit_locally(job_in(tmp_path / "run", SELECTORS["stale"]))
    assert_same(left_behind(tmp_path / "run"), whole("stale"))


def test_rows_that_waited_are_read_again_and_not_scored_again(tmp_path) -> None:
    """Every row of an epoch is scored once, over both halves of the run."""
    killed(tmp_path / "run", SELECTORS["sb"], "step", 14)
    fit_locally(job_in(tmp_path / "run", SELECTORS["sb"]))
    ends = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "end"]
    assert ends[-1]["num_scored"] == EPOCHS * ROWS


@pytest.mark.parametrize("damage", ["cut", "flip", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, whole, damage) -> None:
    folder = tmp_path / "run"
    killed(folder, SELECTORS["sb"], "step", 15)
    newest = sorted(folder.glob("checkpoint_*"))[-1] / "train.pt"
    content = bytearray(newest.read_bytes())
    if damage == "missing":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 1
        newest.write_bytes(content if damage == "flip" else content[:-7])
    with pytest.warns(UserWarning, match="is damaged"):
        fit_locally(job_in(folder, SELECTORS["sb"]))
    assert_same(left_behind(folder), whole("sb"))


def test_metrics_of_steps_that_were_done_again_count_once(tmp_path) -> None:
    folder = tmp_path / "run"
    killed(folder, SELECTORS["sb"], "step", 16)
    fit_locally(job_in(folder, SELECTORS["sb"]))
    epochs = [line["epoch"] for line in read_metrics(folder) if line["kind"] == "epoch"]
    assert epochs == list(range(EPOCHS))
    written = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(written) > len(read_metrics(folder))  # nothing is deleted


def test_more_epochs_can_be_trained_than_were_planned(tmp_path, whole) -> None:
    constant = {"schedule": "constant"}
    for epochs in (2, EPOCHS):
        (tmp_path / "run").mkdir(exist_ok=True)
        fit_locally(job_in(tmp_path / "run", SELECTORS["sb"], epochs=epochs, **constant))
    trained = read_audit(tmp_path / "run" / "audit").to_pydict()
    once = {(pool, sample) for pool, sample in zip(trained["pool"], trained["id"], strict=True)}
    assert len(once) == len(trained["id"])
    assert max(trained["pool"]) // -(-ROWS // POOL) == EPOCHS - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scoring": Scoring(batch_size=POOL + 1)}, "scoring.batch_size"),
        ({"scoring": Scoring(batch_size=POOL, dtype="bfloat16")}, "Leave scoring.proxy"),
        ({"scoring": Scoring(batch_size=POOL, image_scale=0.5)}, "pictures times 0.5"),
        ({"seed": 4}, "run.seed"),
        ({"source": None}, "data.train"),
    ],
)
def test_another_division_into_pools_is_refused(tmp_path, change, said) -> None:
    from dataclasses import replace

    folder = tmp_path / "run"
    killed(folder, SELECTORS["sb"], "step", 10)
    job = job_in(folder, SELECTORS["sb"])
    if "source" in change:
        change = {"source": ArraySource({"x": np.zeros((9, 64), np.float32)}, seed=3)}
    with pytest.raises(ValueError, match=said):
        fit_locally(replace(job, spec=replace(job.spec, **change)))


def test_other_rows_with_as_many_of_them_are_refused(tmp_path) -> None:
    from dataclasses import replace

    folder = tmp_path / "run"
    killed(folder, SELECTORS["sb"], "step", 10)
    job = job_in(folder, SELECTORS["sb"])
    columns = {"x": np.zeros((ROWS, 64), np.float32), "label": np.zeros(ROWS, np.int64)}
    other = ArraySource(columns | {"id": np.arange(ROWS) + 7}, seed=3)
    with pytest.raises(ValueError, match=r"data\.train"):
        fit_locally(replace(job, spec=replace(job.spec, source=other)))


def test_the_final_weights_of_a_run_that_goes_on_are_never_the_old_ones(tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    fit_locally(job_in(folder, SELECTORS["sb"], max_steps=10))
    assert newest_weights(folder) == folder / "model.safetensors"
    killed(folder, SELECTORS["sb"], "step", 7)  # after the checkpoints of steps 12 and 16
    assert newest_weights(folder).parent.name == "checkpoint_000000016"


def test_another_precision_of_training_is_a_setting_that_may_change(tmp_path) -> None:
    """Weights and optimizer are float32 in both; only the forward pass is another one from there"""
    folder = tmp_path / "run"
    killed(folder, SELECTORS["sb"], "step", 10)
    fit_locally(job_in(folder, SELECTORS["sb"], dtype="bfloat16"))
    assert read_metrics(folder)[-1]["fraction"] == 1.0


def test_checkpoints_elsewhere_are_found_by_who_is_given_the_run(tmp_path) -> None:
    words = ["--engine", "local", "--data.train", "digits", "--model.name", "mlp"]
    words += ["--train.epochs", "1", "--train.use_gpu", "false", "--run.loggers", "[]"]
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    train(load(None, [*words, f"--run.dir={run}", f"--run.checkpoints={elsewhere}"]))
    whole = load_model(run).state_dict()
    assert read_history(run).checkpoint.parent == elsewhere
    (run / "model.safetensors").unlink()  # of a run that did not end
    assert newest_weights(run).parent.parent == elsewhere
    for one, other in zip(load_model(run).state_dict().values(), whole.values(), strict=True):
        assert torch.equal(one, other)
    shutil.rmtree(elsewhere)
    with pytest.raises(RunDirectoryError, match="and no checkpoint"):
        newest_weights(run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace(str(elsewhere), "s3://bucket/run"))
    with pytest.raises(RunDirectoryError, match="s3://bucket/run, which is not read from here"):
        newest_weights(run)
