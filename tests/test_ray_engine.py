"""What a run on Ray says before it starts and when it was ended; no cluster is needed for it."""

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from torch import nn

from raysb import Data, Scoring, SelectiveTrainer, Training, Uniform
from raysb.errors import NonFiniteError, ResourceError
from raysb.losses import cross_entropy
from raysb.ray_engine import LostError, Supervisor, Trainer, scorers_held_back
from raysb.training.bystanders import driving, nothing

ROWS = {"x": np.zeros((64, 3), np.float32), "label": np.zeros(64, np.int64)}


@pytest.mark.parametrize(
    ("number", "bound", "told"),
    [
        (4, 0, None),
        ((1, 4), "auto", None),
        ((1, 4), None, None),
        ((2, 4), 0, "there will be 2 at most, since under .*=0 .lockstep. more would take turns"),
        ((1, 4), 4, "num_actors=1,4: there will be 1 at most, since under .*max_staleness_steps=4"),
    ],
)
def test_scorers_that_the_bound_on_ages_has_no_work_for_are_told_of(number, bound, told) -> None:
    scoring = Scoring(num_actors=number, max_staleness_steps=bound, batch_size=16)
    common = {
        "model": lambda: nn.Linear(3, 2),
        "loss": cross_entropy("label"),
        "datasets": {"train": ROWS},
        "data": Data(inputs=("x",)),
        "training": Training(batch_size=8, use_gpu=False),
        "scoring": scoring,
    }
    found = scorers_held_back(SelectiveTrainer(**common).job)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(told, found), found
    assert scorers_held_back(SelectiveTrainer(**common, selector=Uniform()).job) is None


class Hung(Supervisor):
    """A run that the watchdog ends in its first attempt, which dies of that or ends otherwise."""

    attempts = 0
    echo: Exception = LostError("the ledger has died")

    def _attempt(self) -> Any:
        self.attempts += 1
        self._ended = "nothing has moved for 1200 s"
        raise self.echo


@pytest.mark.parametrize("echo", [Hung.echo, OSError("gone"), NonFiniteError("no")])
def test_a_run_that_was_ended_for_hanging_is_not_started_again(tmp_path, echo) -> None:
    trainer = SelectiveTrainer(
        model=lambda: nn.Linear(3, 2),
        loss=cross_entropy("label"),
        datasets={"train": ROWS},
        data=Data(inputs=("x",)),
        training=Training(batch_size=8, use_gpu=False, max_failures=-1),
    )
    checkpoints = trainer.job.checkpoints(tmp_path / "run")
    parts = {"learner": {}, "stream": {}, "history": None}
    checkpoints.save(40, model=nn.Linear(3, 2), **parts)
    hung = Hung(trainer.job, None, RunConfig(storage_path=str(tmp_path), name="run"))
    hung.echo = echo
    with pytest.raises(ResourceError) as caught:
        hung._persist()
    assert hung.attempts == 1
    assert "nothing has moved for 1200 s; so the run was ended from outside" in str(caught.value)
    assert f"step 40; mend what hangs, and `raysb train --resume {tmp_path}/run`" in str(
        caught.value
    )


ARRIVED = """
import sys
from ray import cloudpickle
cloudpickle.load(sys.stdin.buffer)
print(*sorted({"torch", "raysb.ray_engine"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("workers", "loaded"), [(1, "\n"), (2, "torch\n")])
def test_the_controller_of_one_worker_loads_no_torch(workers, loaded) -> None:
    """Which is more than a second between the command and the worker; several need its groups."""
    trainer = Trainer(print, scaling_config=ScalingConfig(num_workers=workers))
    parts = cloudpickle.dumps((trainer._create_default_callbacks(), trainer.train_run_context))
    command = [sys.executable, "-c", ARRIVED]
    done = subprocess.run(command, input=parts, capture_output=True, check=True)
    assert done.stdout.decode() == loaded
    theirs, ours = TorchConfig().backend_cls, trainer.backend_config.backend_cls
    assert ours.share_cuda_visible_devices == theirs.share_cuda_visible_devices
    assert (ours is theirs) == (workers > 1)


@pytest.mark.parametrize("alone", [True, False])
def test_machines_are_asked_for_unless_the_cluster_is_ones_own(monkeypatch, alone) -> None:
    handed: dict[str, Any] = {}
    monkeypatch.setattr(
        TorchTrainer, "_initialize_and_run_controller", lambda _, **parts: handed.update(parts)
    )
    scaling = ScalingConfig(num_workers=2)
    policy = create_scaling_policy(scaling)
    with driving(own=alone):
        trainer = Trainer(print, scaling_config=scaling)
        trainer._initialize_and_run_controller(scaling_policy=policy)
    assert handed["scaling_policy"] is policy
    assert (policy._send_resource_request is nothing) == alone
