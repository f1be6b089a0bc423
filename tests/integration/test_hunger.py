"""The number of scorers follows the hunger of the trainers, and no row pays for it."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import build_net, rows

from raysb.inspect_history.records import read_history
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.audit import read_audit
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = [pytest.mark.ray, pytest.mark.slow]

POOL, BATCH = 32, 16
OVER = "over"


@dataclass
class Throttle:
    """A loss that takes its time: in scorers, or in trainers once a file says so."""

    switch: str  # where it exists, trainers are slow; else scorers are; none once it says OVER

    def __call__(self, outputs: Any, batch: dict[str, Any]) -> Any:
        trains, switch = torch.is_grad_enabled(), Path(self.switch)
        if trains == switch.exists() and not (trains and switch.read_text() == OVER):
            time.sleep(0.15 if trains else 0.25)
        return nn.functional.cross_entropy(outputs, batch["label"], reduction="none")


@dataclass
class Ears:
    """A watcher that keeps lines, and turns the switch a while after there are so many scorers."""

    switch: Path
    turn_at: int | None = None
    lines: list[Mapping[str, Any]] = field(default_factory=list)
    turned: int | None = None  # lines before the switch was turned

    def phase(self, name: str) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def line(self, line: Mapping[str, Any]) -> None:
        """Keep, and turn; once one scorer is left, let the rest go fast."""
        self.lines.append(line)
        if self.turned is not None and line.get("scorers/running") == 1:
            self.switch.write_text(OVER)
        full = [each for each in self.lines if each.get("scorers/running") == self.turn_at]
        if len(full) > 8 and self.turned is None:
            self.turned = len(self.lines)
            self.switch.touch()

    def rate(self, scorers: int) -> float:
        """Rows scored a second while there were so many scorers, before the switch was turned."""
        before = self.lines[: self.turned]
        seen = [x for x in before if x.get("scorers/running") == scorers and x["step"] > 2]
        first, last = seen[1], seen[-1]
        seconds = last["wall_time_s"] - first["wall_time_s"]
        return (last["num_scored"] - first["num_scored"]) / seconds


def train(ears: Ears, folder: Path, count: int, **settings: Any) -> tuple[Any, Any]:
    trainer = SelectiveTrainer(
        model=build_net,
        loss=Throttle(str(ears.switch)),
        datasets={"train": rows(count)},
        selector=SelectiveBackprop(min_probability=1.0),  # all rows are scored, and all trained
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(num_actors=(1, 4), batch_size=POOL, num_cpus=0.1, **settings),
        training=Training(epochs=2, batch_size=BATCH, use_gpu=False, audit=True),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(storage_path=str(folder), name="run"),
        watcher=ears,
    )
    result = trainer.fit()
    return trainer.job.spec, result


def check_rows(folder: Path, count: int, result: Any, max_age: int) -> None:
    """Every id exactly once an epoch, scored and trained, and none too old."""
    audit = read_audit(folder / "run" / "audit")
    plan = PoolPlan(num_rows=count, pool_rows=POOL, epochs=2)
    epochs = plan.epoch_of(audit["pool"].to_numpy())
    for epoch in range(2):
        ids = np.sort(audit["id"].to_numpy()[epochs == epoch])
        np.testing.assert_array_equal(ids, np.arange(count))
    assert result.metrics["num_scored"] == result.metrics["num_backpropped"] == 2 * count
    known = read_history(folder / "run").samples  # nor is a record lost with a scorer that goes
    np.testing.assert_array_equal(known["id"], np.arange(count))
    assert set(known["times_scored"]) == {2}
    ages = audit["step"].to_numpy() - 1 - audit["weights_step"].to_numpy()
    assert ages.max() <= max_age


def test_hungry_trainers_get_scorers_until_rows_come_faster_and_fed_ones_lose_them(
    ray_cluster, tmp_path
) -> None:
    ears = Ears(tmp_path / "fed", turn_at=4)
    spec, result = train(ears, tmp_path, count := 8000)
    counts = [x["scorers/running"] for x in ears.lines if "scorers/running" in x]
    assert counts[0] == 1
    assert max(counts) == 4
    assert ears.turned is not None
    limits = spec.limits_as_grown(BATCH, 1)
    alone = [x for x in ears.lines[ears.turned :] if x.get("scorers/running") == 1]
    # at the end Ray lets go whoever has nothing to score: so before the last rows are on their way
    assert alone
    assert alone[0]["num_scored"] < 2 * count - 2 * limits[-1].max_age * BATCH
    assert ears.rate(4) > 1.5 * ears.rate(1)
    check_rows(tmp_path, count, result, limits[-1].max_age)


def test_fed_trainers_get_no_further_scorer(ray_cluster, tmp_path) -> None:
    ears = Ears(tmp_path / "fed")
    ears.switch.touch()
    spec, result = train(ears, tmp_path, count := 800)
    counts = {x["scorers/running"] for x in ears.lines if "scorers/running" in x}
    assert counts == {1}
    check_rows(tmp_path, count, result, spec.limits(BATCH, 1).max_age)
