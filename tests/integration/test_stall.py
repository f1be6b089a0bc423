"""A run in which a scorer hangs says so, and stops with a checkpoint if it was told to."""

import sys
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

from raysb.interrupt import Interrupted
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


@pytest.mark.slow
def test_a_scorer_that_hangs_is_named_and_the_run_stops_with_a_checkpoint(
    ray_cluster, tmp_path
) -> None:
    ears = Ears()
    trainer = SelectiveTrainer(
        model=build_net,
        loss=Hanging(8),
        datasets={"train": rows(800)},
        selector=SelectiveBackprop(min_probability=1.0),
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(batch_size=40, num_cpus=0.1),
        training=Training(
            epochs=2, batch_size=8, use_gpu=False, stall_after_s=15.0, on_stall="stop"
        ),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(tmp_path), name="run"),
        watcher=ears,
    )
    with pytest.raises(Interrupted):
        trainer.fit()
    assert "wait for the scorers, which hold pools" in ears.notes[0]
    assert "asked to stop" in ears.notes[0]
    newest = Checkpoints(folder=str(tmp_path / "run")).newest()
    assert newest is not None
    assert newest.step > 0
    stacks = "".join(path.read_text() for path in (tmp_path / "run" / "stacks").iterdir())
    assert "time.sleep" in stacks or "Hanging" in stacks or "__call__" in stacks
