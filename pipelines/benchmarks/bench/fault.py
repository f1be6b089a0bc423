"""Part g: seconds from the death of a train worker to the next batch of its successors."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from bench.measures import Measure, failed
from bench.rays import many_cpus
from raysb.losses import cross_entropy
from raysb.scoring.settings import Scoring
from raysb.source.settings import Data
from raysb.training.settings import Training

WORKERS, BATCH, POOL, KILL_AT, SAVE_EVERY = 2, 16, 64, 60, 20


@dataclass
class Mortal:
    """A forward pass that kills worker 1 at its 60th batch, so many times in all.

    Every process notes the time of its first batch, and that of its death.

    Args:
        folder: For the notes.
        deaths: How many.
        calls: Batches that this process has trained.
    """

    folder: str
    deaths: int
    calls: int = 0

    def __call__(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        """Call the model."""
        if model.training and dist.is_initialized():
            self.calls += 1
            if self.calls == 1:
                self._note("first", time.time())
            if self.calls == KILL_AT and dist.get_rank() == 1:
                self._die()
        return model(batch["x"])

    def _die(self) -> None:
        if len(list(Path(self.folder).glob("death-*"))) < self.deaths:
            self._note("death", time.time())
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, what: str, value: float) -> None:
        (Path(self.folder) / f"{what}-{os.getpid()}").write_text(json.dumps(value))


def measure(repeats: int, report: Callable[[Measure], None]) -> None:
    """One run in which a worker dies so many times."""
    name = "SIGKILL of one of 2 train workers to the next batch, s"
    with tempfile.TemporaryDirectory(prefix="raysb-bench-") as folder, many_cpus(6):
        try:
            _fit(folder, repeats)
        except Exception as error:
            report(failed("g", name, error))
        firsts, deaths = _notes(folder, "first"), _notes(folder, "death")
    waits = [min(t for t in firsts if t > death) - death for death in deaths if death < firsts[-1]]
    if waits:
        report(Measure(part="g", name=name, values=waits))


def _notes(folder: str, what: str) -> list[float]:
    return sorted(json.loads(path.read_text()) for path in Path(folder).glob(f"{what}-*"))


def _fit(folder: str, deaths: int) -> None:
    import ray.train

    from raysb.trainer import SelectiveTrainer

    train: Any = ray.train  # typed as its first version, whose settings have fewer fields

    count = 2 * (deaths + 2) * KILL_AT * WORKERS * BATCH  # half of them are kept
    rng = np.random.default_rng(0)
    rows = {
        "x": rng.normal(size=(count, 8)).astype(np.float32),
        "label": rng.integers(2, size=count),
    }
    SelectiveTrainer(
        model=lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
        forward=Mortal(folder, deaths),
        loss=cross_entropy("label"),
        datasets={"train": rows},
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(batch_size=POOL, num_cpus=0.5),
        training=Training(
            epochs=1, batch_size=BATCH, num_workers=WORKERS, checkpoint_every=SAVE_EVERY
        ),
        scaling_config=train.ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.5}),
        run_config=train.RunConfig(
            storage_path=folder,
            name="run",
            failure_config=train.FailureConfig(max_failures=deaths),
            logging_config=train.LoggingConfig(log_level="ERROR"),
        ),
    ).fit()
