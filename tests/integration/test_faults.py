"""Scorers and train workers that are slow or die: no stall, no row lost, no score too old."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
import runs
from ray.train import FailureConfig, RunConfig, ScalingConfig
from runs import Case, build_net, rows, run

from raysb.losses import cross_entropy
from raysb.scoring.limits import limits_for
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.audit import read_audit
from raysb.training.settings import Training

ray.cloudpickle.register_pickle_by_value(runs)
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.ray

WORKERS, BATCH, POOL = 2, 4, 8


def smallest_bound(pool: int = POOL) -> int:
    for bound in range(1, 100):
        try:
            limits_for(bound, pool_rows=pool, batch_size=BATCH, num_workers=WORKERS, num_actors=3)
        except ValueError:
            continue
        return bound
    raise AssertionError


def once(path: str) -> bool:
    """Whether this is the first process to ask for this file."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@dataclass
class SlowScorer:
    """A forward pass that one scorer process takes `delay_s` longer over."""

    folder: str
    delay_s: float
    slow: Any = None

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        if not model.training:
            if self.slow is None:
                self.slow = once(f"{self.folder}/slow")
            time.sleep(self.delay_s if self.slow else self.delay_s / 20)
        return model(batch["x"])


@dataclass
class Killer:
    """A forward pass that kills its process once, in training or in scoring, at its n-th call."""

    folder: str
    training: bool
    at: int
    calls: int = 0

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        if model.training == self.training:
            self.calls += 1
            due = self.calls == self.at and (not self.training or _rank() == 1)
            if due and once(f"{self.folder}/killed"):
                os.kill(os.getpid(), signal.SIGKILL)
        return model(batch["x"])


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def age_cases(
    tmp_path: Path, bounds: set[int], count: int, kept: float, pool: int = POOL
) -> list[Case]:
    cases = []
    for stale in sorted(bounds):
        selector = SelectiveBackprop(beta=1 / kept - 1) if kept < 1 else None
        folder = tmp_path / f"{stale}-{kept}"
        folder.mkdir()
        cases.append(
            Case(
                name=f"stale{stale}-keep{kept}",
                count=count,
                epochs=1,
                batch_size=BATCH,
                pool=pool,
                actors=3,
                readers=0,
                stale=stale,
                selector=selector or SelectiveBackprop(min_probability=1.0),
                forward=SlowScorer(str(folder), 0.05),
            )
        )
    return cases


def check_ages(cases: list[Case], outcomes: dict[str, Any]) -> None:
    for case in cases:
        numbers, audit = outcomes[case.name].numbers, outcomes[case.name].audit
        ages = audit["step"].to_numpy() - 1 - audit["weights_step"].to_numpy()
        bound = case.stale or -(-case.pool // (WORKERS * BATCH))
        assert 0 <= ages.min(), case.name
        assert ages.max() <= bound, (case.name, ages.max())
        assert int(numbers["promised_age"]) <= bound
        pairs = set(zip(audit["pool"].to_pylist(), audit["id"].to_pylist(), strict=True))
        assert len(pairs) == audit.num_rows == int(numbers["backpropped"]), case.name


def test_ages_keep_their_bound_with_a_scorer_twenty_times_slower(ray_cluster, tmp_path):
    # in lockstep ages are the local engine's: test_lockstep.py
    cases = age_cases(tmp_path, {smallest_bound(), 8}, count=240, kept=0.5)
    check_ages(cases, run(cases, tmp_path, workers=WORKERS))


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "pool"), [(0.1, 20), (0.5, POOL), (1.0, POOL)])
def test_ages_keep_their_bound_over_500_steps(ray_cluster, tmp_path, kept, pool):
    count = int(500 * WORKERS * BATCH / kept)
    cases = age_cases(tmp_path, {0, smallest_bound(pool), 8}, count, kept, pool)
    outcomes = run(cases, tmp_path, workers=WORKERS)
    check_ages(cases, outcomes)
    assert all(int(outcomes[case.name].numbers["steps"]) >= 450 for case in cases)


def test_a_bound_below_the_smallest_is_refused_at_construction(tmp_path):
    with pytest.raises(ValueError, match=f"smallest bound is {smallest_bound()} steps"):
        trainer(tmp_path, forward=None, stale=smallest_bound() - 1)


def trainer(folder: Path, forward: Any, stale: Any, **settings: Any) -> SelectiveTrainer:
    return SelectiveTrainer(
        model=build_net,
        forward=forward or (lambda model, batch: model(batch["x"])),
        loss=cross_entropy("label"),
        datasets={"train": rows(600)},
        selector=SelectiveBackprop(min_probability=1.0),
        data=Data(inputs=("x",), num_readers=1),
        scoring=Scoring(num_actors=2, batch_size=POOL, num_cpus=0.1, max_staleness_steps=stale),
        training=Training(
            epochs=1,
            batch_size=BATCH,
            num_workers=WORKERS,
            checkpoint_every=15,
            audit=True,
            **settings,
        ),
        scaling_config=ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            storage_path=str(folder), name="run", failure_config=FailureConfig(max_failures=2)
        ),
    )


@pytest.mark.parametrize("who", ["scorer", "worker"])
def test_a_killed_part_costs_no_row(ray_cluster, tmp_path, who):
    killer = Killer(str(tmp_path), training=who == "worker", at=20)
    job = trainer(tmp_path, killer, smallest_bound())
    result = job.fit()
    assert (tmp_path / "killed").exists()
    assert result.metrics["fraction"] == 1.0
    audit = read_audit(tmp_path / "run" / "audit")
    plan = PoolPlan(num_rows=600, pool_rows=POOL, epochs=1)
    ids, counts = np.unique(audit["id"].to_numpy(), return_counts=True)
    np.testing.assert_array_equal(ids, np.arange(plan.num_rows))  # none lost, none foreign
    limit = 0 if who == "scorer" else smallest_bound() * WORKERS * BATCH + 2 * POOL
    assert counts.sum() - len(ids) <= limit
    assert counts.max() <= 2
