"""What a run on Ray says before it starts and when it was ended; no cluster is needed for it."""

import re
import subprocess
import sys
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy
from torch import nn

from raysb import Data, Scoring, SelectiveTrainer, Training, Uniform, ray_engine
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


def trainer_of(folder: Path, training: Training, **options: Any) -> SelectiveTrainer:
    """A run in a folder of the user's choice."""
    return SelectiveTrainer(
        model=lambda: nn.Linear(3, 2),
        loss=cross_entropy("label"),
        datasets={"train": ROWS},
        data=Data(inputs=("x",)),
        training=training,
        **{"run_config": RunConfig(storage_path=str(folder), name="run"), **options},
    )


@pytest.mark.parametrize(
    ("failures", "ours", "counts"),
    [
        (None, {}, 3),
        (None, {"max_failures": 0}, 0),
        (None, {"max_failures": -1}, -1),
        (FailureConfig(controller_failure_limit=1), {"max_failures": 5}, 5),
        (FailureConfig(max_failures=2, controller_failure_limit=1), {}, 2),
        (FailureConfig(max_failures=-1), {}, -1),
        (FailureConfig(max_failures=7), {"max_failures": 7}, 7),
    ],
)
def test_the_restarts_that_were_named_hold_in_a_folder_of_ones_own(
    tmp_path, monkeypatch, failures, ours, counts
) -> None:
    """Ray heard of those of `run_config` alone: without any, the first death ended the run."""
    given = RunConfig(
        storage_path=str(tmp_path),
        name="run",
        failure_config=failures,
        checkpoint_config=CheckpointConfig(num_to_keep=7),
        worker_runtime_env={"env_vars": {"A": "b"}},
        logging_config=LoggingConfig(log_level="DEBUG"),
    )
    before = deepcopy(given)
    trainer = trainer_of(tmp_path, Training(batch_size=8, **ours), run_config=given)
    for name in ("check_job", "check_folders"):
        monkeypatch.setattr(ray_engine, name, lambda *_: None)
    monkeypatch.setattr(ray_engine, "connected", lambda **_: nullcontext())
    monkeypatch.setattr(ray_engine, "fit_checked", lambda job, scaling, run_config: run_config)
    used = ray_engine.fit_on_ray(trainer.job, None, given)
    assert used.failure_config.max_failures == trainer.job.training.max_failures == counts
    limit = before.failure_config.controller_failure_limit
    assert used.failure_config.controller_failure_limit == limit
    assert given == before
    others = [each.name for each in fields(RunConfig) if each.name != "failure_config"]
    assert [getattr(used, name) for name in others] == [getattr(given, name) for name in others]


@pytest.mark.parametrize("engine", ["ray", "local"])
@pytest.mark.parametrize(
    ("training", "options", "said"),
    [
        (
            {"num_workers": 4},
            {"scaling_config": ScalingConfig(num_workers=2)},
            "training.num_workers=4 and scaling_config.num_workers=2: one of the two would be "
            "ignored; name it in scaling_config alone",
        ),
        (
            {"max_failures": 5},
            {"run_config": RunConfig(name="r", failure_config=FailureConfig(max_failures=2))},
            "training.max_failures=5 and run_config.failure_config.max_failures=2: one of the two "
            "would be ignored; name it in run_config.failure_config alone",
        ),
    ],
)
def test_what_ray_is_told_otherwise_is_refused(tmp_path, engine, training, options, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        trainer_of(tmp_path, Training(batch_size=8, **training), engine=engine, **options)


@pytest.mark.parametrize(
    ("ours", "rays", "counts"),
    [({}, 2, 2), ({}, (1, 2), (1, 2)), ({"num_workers": 3}, 3, 3), ({"num_workers": 3}, None, 3)],
)
def test_the_workers_are_those_that_were_named_once(tmp_path, ours, rays, counts) -> None:
    scaling = None if rays is None else ScalingConfig(num_workers=rays)
    trainer = trainer_of(tmp_path, Training(batch_size=8, **ours), scaling_config=scaling)
    assert trainer.job.training.num_workers == counts


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
