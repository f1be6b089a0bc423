"""Part c: train workers where a machine is lost and another one comes, on simulated machines."""

import os
import time
from pathlib import Path
from typing import Any

from bench.runs import Run
from bench.slow_runs import finish, started
from bench.throttled import set_pace
from raysb.cluster import prepare_environment

ROWS, LOST_AT, SAVE_EVERY, STEP_S = 4000, 20, 8, 0.25
SCORER: dict[str, Any] = {"num_cpus": 2, "resources": {"scorer": 2}}
TRAINER: dict[str, Any] = {"num_cpus": 2, "resources": {"trainer": 1}}
FLAGS = f"""
  --scoring.num_actors 1 --scoring.batch_size 30 --scoring.resources.scorer 1
  --train.resources.trainer 1 --train.num_workers 1,2 --train.batch_size 8
  --train.checkpoint_every {SAVE_EVERY}
"""


def lose_and_gain(folder: Path) -> dict[str, float]:
    """One of two trainer machines is killed, later another joins."""
    prepare_environment()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as Cluster() starts its machines
    from ray.cluster_utils import Cluster

    set_pace(step=STEP_S)
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [cluster.add_node(**each) for each in (SCORER, TRAINER, TRAINER)]
        cluster.wait_for_nodes()
        with started(folder, ROWS, FLAGS, cluster.address) as run:
            run.wait(f"step {LOST_AT}", lambda: run.step(workers=2) >= LOST_AT)
            killed_at = time.monotonic()
            cluster.remove_node(machines[-1], allow_graceful=False)
            lost = _until_new_step(run, 1, killed_at)
            joined_at = time.monotonic()
            cluster.add_node(**TRAINER)
            gained = _until_new_step(run, 2, joined_at)
            rows = finish(run, ROWS)
    finally:
        cluster.shutdown()
    told = (("machine killed", lost), ("machine joins", gained))
    return {f"{when}: {name}": x for when, one in told for name, x in one.items()} | rows


def _until_new_step(run: Run, workers: int, began: float) -> dict[str, float]:
    """Wait for a new group of so many workers to make a step that none has made before."""
    groups, newest = len(run.resumed_at()), 0
    stepped, longest = began, 0.0

    def look() -> bool:
        nonlocal newest, stepped, longest
        made, resumed = run.workers(), len(run.resumed_at()) > groups
        over = resumed and any(n == workers for step, n in made.items() if step > newest)
        if over or (not resumed and max(made) > newest):
            now = time.monotonic()
            longest, stepped = max(longest, now - stepped), now
            newest = newest if over else max(made)
        return over

    run.wait(f"{workers} workers", look)
    return {
        f"first new step of {workers} after, s": stepped - began,
        "longest time without a new step, s": longest,
        f"steps undone, a checkpoint every {SAVE_EVERY}": newest - run.resumed_at()[-1],
    }
