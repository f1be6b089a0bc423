"""A run in which a part hangs says so, and stops with a checkpoint if it was told to.

Where who hangs is a worker that should stop, or the ledger that is asked, the run is ended.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import build_net, rows

from raysb.errors import ResourceError
from raysb.interrupt import Interrupted
from raysb.losses import cross_entropy
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray


@dataclass
class Hanging:
    """A loss that never comes back from its n-th call in a scorer."""

    at: int
    calls: int = 0

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            self.calls += 1
            if self.calls > self.at:
                time.sleep(3600)
        return nn.functional.cross_entropy(outputs, batch["label"], reduction="none")


@dataclass
class Stuck(Hanging):
    """A loss that never comes back from its n-th call in a train worker."""

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> Any:
        if torch.is_grad_enabled():
            self.calls += 1
            if self.calls > self.at:
                time.sleep(3600)
        return nn.functional.cross_entropy(outputs, batch["label"], reduction="none")


class Ears:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def phase(self, name: str) -> None:
        """Ignore."""

    def line(self, line: Any) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Keep."""
        self.notes.append(text)


def trainer_of(loss: Any, folder: Path, ears: Ears, **training: Any) -> SelectiveTrainer:
    """A run that ends at nothing but its 60000 epochs."""
    return SelectiveTrainer(
        model=build_net,
        loss=loss,
        datasets={"train": rows(800)},
        selector=SelectiveBackprop(min_probability=1.0),
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(batch_size=40, num_cpus=0.1),
        training=Training(
            **{"epochs": 60_000, "batch_size": 8, "use_gpu": False, "on_stall": "stop"},
            **training,
        ),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(folder), name="run"),
        watcher=ears,
    )


@pytest.mark.slow
def test_a_scorer_that_hangs_is_named_and_the_run_stops_with_a_checkpoint(
    ray_cluster, tmp_path
) -> None:
    ears = Ears()
    with pytest.raises(Interrupted):
        trainer_of(Hanging(8), tmp_path, ears, stall_after_s=15.0).fit()
    assert "wait for the scorers, which hold pools" in ears.notes[0]
    assert "asked to stop" in ears.notes[0]
    newest = Checkpoints(folder=str(tmp_path / "run")).newest()
    assert newest is not None
    assert newest.step > 0
    stacks = "".join(path.read_text() for path in (tmp_path / "run" / "stacks").iterdir())
    assert "time.sleep" in stacks or "Hanging" in stacks or "__call__" in stacks


@pytest.mark.slow
def test_a_worker_that_hangs_in_its_step_hears_no_stop_and_the_run_is_ended(
    ray_cluster, tmp_path
) -> None:
    ears, before = Ears(), ray.available_resources().get("CPU")
    with pytest.raises(ResourceError) as caught:
        trainer_of(Stuck(8), tmp_path, ears, stall_after_s=6.0, checkpoint_every=5).fit()
    said = str(caught.value)
    assert "the run is asked to stop" in ears.notes[0]
    assert "nor has the run stopped when it was asked to" in said
    newest = Checkpoints(folder=str(tmp_path / "run")).newest()
    assert newest.step == 5
    assert "that of step 5;" in said
    assert f"raysb train --resume {tmp_path / 'run'}" in said
    del caught
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU") != before:  # nobody hangs on for ever
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_ledger_that_hangs_is_named_and_the_run_is_ended(ray_cluster, tmp_path) -> None:
    ears = Ears()
    trainer = trainer_of(
        cross_entropy("label"), tmp_path, ears, stall_after_s=6.0, checkpoint_every=5
    )

    stopped: list[int] = []

    def halt() -> None:
        end = time.monotonic() + 60
        while not any((tmp_path / "run").glob("checkpoint_*/manifest.json")):
            assert time.monotonic() < end
            time.sleep(0.1)
        for pid in ledgers():
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)

    threading.Thread(target=halt, daemon=True).start()
    try:
        with pytest.raises(ResourceError, match=r"the ledger has not answered for .* s: it hangs"):
            trainer.fit()
    finally:
        for pid in set(stopped) & set(ledgers()):
            os.kill(pid, signal.SIGKILL)
    assert len(stopped) == 1
    assert "the ledger has not answered" in ears.notes[0]


def ledgers() -> list[int]:
    """Numbers of the processes of our cluster's ledgers; Ray names a process by its actor."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ray::LedgerService" in (folder / "cmdline").read_bytes():
                raylet = parent(int(folder.name))
                found += [int(folder.name)] * (parent(raylet) == os.getpid())
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    """The process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
