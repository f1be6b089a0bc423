"""A run on Ray that loses its worker, or is killed whole, ends as one that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import CLASSES, FEATURES, rows

from raysb.losses import cross_entropy
from raysb.models import load_model
from raysb.report.records import read_metrics
from raysb.scoring.settings import Scoring
from raysb.selection import StaleSelectiveBackprop
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.audit import read_audit
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

ROWS, EPOCHS = 240, 4


def build() -> nn.Module:
    """It draws, and sums in float64: no step may come twice or in another order."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES)).double()


@dataclass
class Step:
    """A training loss that kills its process once, at a step."""

    folder: str
    at: int
    calls: int = 0

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and not (Path(self.folder) / "killed").exists():
            (Path(self.folder) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")


def trainer_of(folder: Path, *, engine: str, dies_at: int = -1, **options: Any) -> SelectiveTrainer:
    folder.mkdir(exist_ok=True)
    settings = {"workers": 1, "actors": 1, "shards": 1, "resume": False} | options
    workers = settings["workers"]
    return SelectiveTrainer(
        model=build,
        loss=cross_entropy("label"),
        datasets={"train": rows(ROWS), "eval": rows(50, seed=1)},
        selector=StaleSelectiveBackprop(beta=1.0, refresh_every=2),
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(
            batch_size=40, num_cpus=0.1, num_actors=settings["actors"], max_staleness_steps=0
        ),
        training=Training(
            epochs=EPOCHS,
            batch_size=8,
            num_workers=workers,
            checkpoint_every=4,
            audit=True,
            use_gpu=False,
        ),
        step=Step(str(folder), dies_at),
        engine=engine,
        resume=settings["resume"],
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=str(folder), name="run", failure_config=FailureConfig(max_failures=3)
        ),
    )


def left_behind(run: Path) -> dict[str, Any]:
    """Weights, rows trained, history and evaluations."""
    store = Checkpoints(folder=str(run))
    state = store.load_stream(store.newest())
    lines = [
        (line["kind"], line["epoch"], line["step"], line["eval/loss"], line["num_scored"])
        for line in read_metrics(run)
        if line["kind"] == "epoch"
    ]
    return {
        "weights": [w.numpy() for w in load_model(run, model=build).state_dict().values()],
        "trained": read_audit(run / "audit").select(["step", "id", "weights_step"]).to_pydict(),
        "history": state["history"],
        "lines": lines,
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["trained"] == other["trained"]
    assert one["lines"] == other["lines"]
    for a, b in zip(one["weights"], other["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
    for name, column in one["history"].items():
        np.testing.assert_array_equal(column, other["history"][name], err_msg=name)


def test_a_run_that_lost_its_worker_equals_the_local_engine_that_lost_nobody(
    ray_cluster, tmp_path
) -> None:
    trainer_of(tmp_path / "local", engine="local").fit()
    trainer_of(tmp_path / "ray", engine="ray", dies_at=14).fit()
    assert (tmp_path / "ray" / "killed").exists()
    assert_same(left_behind(tmp_path / "ray" / "run"), left_behind(tmp_path / "local" / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"workers": 2}, {"actors": 3}, {"workers": 2, "actors": 2}], ids=str
)
def test_other_numbers_of_workers_and_scorers_go_on_and_train_every_row_once(
    ray_cluster, tmp_path, sizes
) -> None:
    """Begun in one process; what was selected is trained once, whoever trains it."""
    half = trainer_of(tmp_path, engine="local", dies_at=-1)
    half.job = type(half.job)(
        **vars(half.job) | {"training": Training(**vars(half.job.training) | {"max_steps": 13})}
    )
    half.fit()
    trainer_of(tmp_path, engine="ray", resume=True, **sizes).fit()
    trained = read_audit(tmp_path / "run" / "audit").to_pydict()
    keys = list(zip(trained["pool"], trained["id"], strict=True))
    assert len(set(keys)) == len(keys)
    last = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "end"][-1]
    assert last["fraction"] == 1.0
    assert last["num_backpropped"] == len(keys)


MAIN = [
    *("--data.train", "digits", "--model.name", "mlp", "--train.epochs", "3"),
    *("--scoring.batch_size", "128", "--scoring.max_staleness_steps", "0"),
    *("--train.checkpoint_every", "6", "--train.audit", "true", "--train.use_gpu", "false"),
    *("--scoring.num_cpus", "0.2", "--data.num_readers", "1", "--run.loggers", "[]"),
    *("--train.num_threads", "1"),
]


def command(*words: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-m", "raysb", "train", *words, "--address", "local"],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    process = command(*MAIN, "--run.dir", str(run))
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_run_whose_driver_is_killed_anywhere_is_resumed_to_the_bit(
    tmp_path, undisturbed, seed
) -> None:
    """The command itself, killed with its whole Ray at a random step after the first checkpoint."""
    run, rng = tmp_path / "run", random.Random(seed)
    at = rng.randrange(7, 30)
    process = command(*MAIN, "--run.dir", str(run))
    while process.poll() is None and len(list(run.glob("audit/*"))) < at:
        time.sleep(0.02)
    time.sleep(rng.random() * 0.2)
    process.kill()
    process.wait()
    for _ in range(3):  # Ray's processes die with it, not at once
        time.sleep(2)
    resumed = command("--resume", str(run))
    out, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, out
    assert "going on from the checkpoint of step" in out
    whole, again = (
        (
            read_audit(folder / "audit").select(["step", "id", "probability"]).to_pydict(),
            (folder / "model.safetensors").read_bytes(),
            [
                {k: line[k] for k in ("epoch", "step", "eval/error", "score/loss", "num_scored")}
                for line in read_metrics(folder)
                if line["kind"] == "epoch"
            ],
        )
        for folder in (undisturbed, run)
    )
    assert json.dumps(again[2]) == json.dumps(whole[2])
    assert again[0] == whole[0]
    assert again[1] == whole[1]
