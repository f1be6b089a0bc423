"""Workers go on from one checkpoint, whatever each machine shows of the folder."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from saved import parts

from raysb.errors import RunDirectoryError
from raysb.schema import ID
from raysb.task import Task, inputs
from raysb.training import worker
from raysb.training.audit import Audit, read_audit
from raysb.training.checkpoints import Checkpoints
from raysb.training.exchange import Exchange
from raysb.training.settings import Evaluation, Training
from raysb.training.worker import Job, Worker, restore_model


def folder_with(path: Path, *steps: int) -> Path:
    """A folder of checkpoints, each with a model whose every weight is the step."""
    path.mkdir()
    for step in steps:
        Checkpoints(folder=str(path), keep=9).save(step, **parts(float(step)))
    return path


def test_one_worker_takes_the_newest_or_begins_anew(tmp_path) -> None:
    model = nn.Linear(3, 2)
    there = Checkpoints(folder=str(folder_with(tmp_path / "there", 1, 2)))
    restored = restore_model(there, model, Exchange())
    assert restored is not None
    assert restored["stream"]["counters"] == parts()["stream"]["counters"]
    assert (model.weight == 2.0).all()
    assert restore_model(Checkpoints(folder=str(tmp_path / "none")), model, Exchange()) is None


class Stream:
    """A worker's stream without Ray."""

    def __init__(self, handle: Any, **options: Any) -> None:
        task = Task(model=lambda: nn.Linear(3, 2), forward=inputs("x"), loss=lambda o, b: o.sum(1))
        self.spec, self.num_steps = SimpleNamespace(task=task, seed=0), 0

    def load_state_dict(self, state: Any) -> None:
        self.num_steps = state["counters"]["num_steps"]


@pytest.mark.parametrize(("saved", "kept"), [(False, []), (True, [5, 5])])
def test_the_audit_forgets_the_steps_that_are_done_again(
    tmp_path, monkeypatch, saved, kept
) -> None:
    """Two workers made 6 steps and died; one goes on, from step 5 if that was saved."""
    audit = Audit(str(tmp_path / "audit"))
    for step in (5, 6):
        for rank in (0, 1):
            audit(step, rank, {ID: np.array([rank])})
    checkpoints = Checkpoints(folder=str(tmp_path))
    if saved:
        checkpoints.save(5, **parts())
    monkeypatch.setattr(worker, "RayStream", Stream)
    monkeypatch.setattr(worker, "keep_freed_pages", lambda: None)
    monkeypatch.setattr(worker, "worker_device", lambda: torch.device("cpu"))
    alone = SimpleNamespace(get_world_rank=lambda: 0)
    monkeypatch.setattr(worker.ray.train, "get_context", lambda: alone)
    monkeypatch.setattr(worker.ray.train.torch, "get_devices", lambda: [torch.device("cpu")])
    board = SimpleNamespace(append=lambda log, line: None)
    handle: Any = SimpleNamespace(name="run", board=board, can_be_asked=lambda by: None)
    Worker(
        Job(
            stream=handle,
            training=Training(optimizer="adamw"),
            evaluation=Evaluation(),
            checkpoints=checkpoints,
            on_step=audit,
        )
    )
    assert read_audit(audit.folder)["step"].to_pylist() == kept


SCRIPT = """
from raysb.training.checkpoints import Checkpoints
from raysb.training.exchange import Exchange
from raysb.training.worker import restore_model

found, exchange = {{}}, Exchange()
for name in ("same", "newer", "none", "missing", "damaged"):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, 0.0)
    try:  # each machine has its own view of the folder
        restored = restore_model(Checkpoints(folder=f"{folder}/{{name}}-{{rank}}"), model, exchange)
        found[name] = [model.weight.mean().item(), restored is None]
    except Exception as error:
        found[name] = [type(error).__name__, str(error)]
"""


@pytest.fixture(scope="module")
def two(gloo: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("views")
    views = {  # what worker 0 and worker 1 see
        "same": ([1, 2], [1, 2]),
        "newer": ([1, 2], [1, 2, 3]),
        "none": ([], [1]),
        "missing": ([1, 2], [1]),
        "damaged": ([1, 2], [1, 2]),
    }
    for name, both in views.items():
        for rank, steps in enumerate(both):
            folder_with(folder / f"{name}-{rank}", *steps)
    weights = folder / "damaged-1/checkpoint_000000002/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return gloo(SCRIPT.format(folder=folder), workers=2)


@pytest.mark.gloo
@pytest.mark.parametrize("view", ["same", "newer"])
def test_all_workers_take_the_checkpoint_that_worker_0_finds(two, view) -> None:
    assert [found[view] for found in two] == [[2.0, False]] * 2


@pytest.mark.gloo
def test_where_worker_0_finds_none_all_begin_anew(two) -> None:
    assert [found["none"] for found in two] == [[0.0, True]] * 2


@pytest.mark.gloo
@pytest.mark.parametrize(
    ("view", "kind"),
    [("missing", "OSError"), ("damaged", RunDirectoryError.__name__)],
)
def test_a_worker_that_cannot_read_it_says_which_and_trains_from_no_other(two, view, kind) -> None:
    """An `OSError` counts as a fault of the disk, which another try may mend."""
    assert two[0][view] == [2.0, False]
    found, said = two[1][view]
    assert found == kind
    assert said.startswith("worker 1 on ")
    assert f"{view}-1/checkpoint_000000002, from which worker 0 goes on" in said
    assert "the newest it finds is checkpoint_000000001" in said
