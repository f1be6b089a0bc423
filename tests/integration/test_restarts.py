"""What a worker group does after a fault, and what it does not try again."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import runs
from ray.train import FailureConfig, RunConfig, ScalingConfig
from runs import CLASSES, FEATURES, rows

from raysb.errors import ModelError
from raysb.losses import cross_entropy
from raysb.models import load_model
from raysb.report.records import read_metrics
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

BATCH, WORKERS = 8, 2
POOL = BATCH * WORKERS  # a pool is a step: a restart repeats no row


def build_dropout() -> nn.Module:
    """A net that draws: each worker its own numbers."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES)).double()


@dataclass
class Step:
    """A training loss that does something to its process at its n-th call, in any process."""

    folder: str
    at: int
    kill: bool
    calls: int = 0

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        import torch.distributed as dist

        self.calls += 1
        (Path(self.folder) / f"{os.getpid()}").touch()
        if self.calls == self.at and dist.get_rank() == dist.get_world_size() - 1:
            if not self.kill:
                raise TypeError("the step hook is wrong")
            if not (Path(self.folder) / "killed").exists():
                (Path(self.folder) / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")


@dataclass
class BadScore:
    """A loss that raises in a scorer, from its n-th call on."""

    at: int
    calls: int = 0

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled():
            self.calls += 1
            if self.calls >= self.at:
                raise TypeError("the loss is wrong")
        return nn.functional.cross_entropy(outputs, batch["label"], reduction="none")


def fit(folder: Path, *, workers: int = WORKERS, loss: Any = None, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    trainer = SelectiveTrainer(
        model=build_dropout,
        loss=loss or cross_entropy("label"),
        datasets={"train": rows(20 * POOL)},
        selector=SelectiveBackprop(min_probability=1.0),
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(batch_size=POOL, num_cpus=0.1, max_staleness_steps=0),
        training=Training(epochs=1, batch_size=BATCH, num_workers=workers, checkpoint_every=5),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=str(folder), name="run", failure_config=FailureConfig(max_failures=3)
        ),
        **options,
    )
    return trainer.fit()


@pytest.mark.slow
def test_a_run_that_lost_a_worker_ends_with_the_weights_of_one_that_did_not(ray_cluster, tmp_path):
    """Every worker took up worker 0's random state, so that all drew the same dropout."""
    weights = []
    for name in ("whole", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        fit(folder, step=Step(str(folder), at=8 if name == "broken" else -1, kill=True))
        weights.append(load_model(folder / "run", model=build_dropout).state_dict())
        assert read_metrics(folder / "run")[-1]["step"] == 20
    assert (tmp_path / "broken" / "killed").exists()
    for one, other in zip(weights[0].values(), weights[1].values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("where", ["worker", "scorer"])
def test_code_that_raises_ends_the_run_at_once_with_its_message(ray_cluster, tmp_path, where):
    """It was started again max_failures times, and ended with Ray Train's own error."""
    options = {"loss": BadScore(5)} if where == "scorer" else {}
    step = Step(str(tmp_path), at=3 if where == "worker" else -1, kill=False)
    with pytest.raises(
        ModelError, match=r"raised TypeError: the (step hook|loss) is wrong"
    ) as told:
        fit(tmp_path, workers=1, step=step, **options)
    assert "not tried again" in str(told.value)
    processes = [path for path in tmp_path.iterdir() if path.name.isdigit()]
    assert len(processes) == 1
