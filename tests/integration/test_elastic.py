"""A worker group that shrinks when a machine is taken away, and grows when one comes.

`pytest -m slow tests/integration/test_elastic.py`; the cluster lives in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import test_simulated_cluster as simulation

pytestmark = pytest.mark.slow  # 4 min, most of them Ray's own
ROWS, EPOCHS, POOL, SAVE_EVERY = 3000, 2, 30, 8
TRAINER = {"num_cpus": 2, "resources": {"trainer": 1}}
FLAGS = f"""
  --data.inputs x --data.test_fraction 0 --data.num_readers 1 --model.name slow_net:build
  --selector.min_probability 1 --scoring.num_actors 1,2 --scoring.batch_size {POOL}
  --scoring.resources.scorer 2 --train.resources.trainer 1 --train.num_workers 1,2
  --train.epochs {EPOCHS} --train.batch_size 8 --train.checkpoint_every {SAVE_EVERY}
  --train.audit
"""


def ranks(audit: Path) -> dict[int, int]:
    """Workers of each step."""
    counts: dict[int, int] = {}
    for file in audit.glob("step-*-rank-*.parquet"):
        step = int(file.name.split("-")[1])
        counts[step] = counts.get(step, 0) + 1
    return counts


def resumed_at(run: Path) -> list[int]:
    """The steps from which new groups of workers went on."""
    metrics = run / "metrics.jsonl"
    lines = map(json.loads, metrics.read_text().splitlines() if metrics.exists() else ())
    return [line["step"] for line in lines if line["kind"] == "resume"]


def main(folder: Path) -> None:
    """Train with two workers, one, two; leave what was seen as JSON."""
    simulation.ROWS = ROWS
    simulation.FLAGS = FLAGS
    simulation.TRAINER = TRAINER
    (folder / "slow_net.py").write_text(simulation.MODEL)
    simulation.write_rows(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    run, seen = folder / "run", dict[str, Any]()
    audit = run / "audit"

    def newest(count: int) -> int:
        """The last step of so many workers."""
        return max((step for step, n in ranks(audit).items() if n == count), default=0)

    def goes_on(workers: int, group: int) -> bool:
        """Whether a new group of so many has passed a checkpoint: no later one undoes it all."""
        resumed = resumed_at(run)
        return len(resumed) >= group and newest(workers) > resumed[-1] + 2 * SAVE_EVERY

    with simulation.simulated() as (cluster, machines):
        second = cluster.add_node(**TRAINER)
        machines[second.node_id] = second
        cluster.wait_for_nodes()
        going = simulation.train(folder, cluster.address, "--run.dir", str(run))
        simulation.wait_for(lambda: newest(2) >= 12, "two workers", going)
        head = simulation.machines_of("RayTrainWorker")
        seen["lost_at"] = newest(2)
        cluster.remove_node(machines[head[-1]], allow_graceful=False)
        simulation.wait_for(lambda: goes_on(1, group=1), "one worker", going)
        seen["alone_from"] = resumed_at(run)[0] + 1
        cluster.add_node(**TRAINER)
        simulation.wait_for(lambda: goes_on(2, group=2), "two again", going)
        seen["said"], seen["code"] = going.communicate()[0], going.returncode
    (folder / "seen.json").write_text(json.dumps(seen))


def test_a_lost_machine_costs_a_worker_and_a_new_one_brings_it_back_and_every_row_is_trained_once(
    tmp_path: Path,
) -> None:
    from raysb.cluster import running_clusters
    from raysb.training.audit import read_audit

    if running := running_clusters():
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["code"] == 0, seen["said"]
    counts = ranks(tmp_path / "run" / "audit")
    assert {1, 2} == set(counts.values())
    assert counts[1] == counts[max(counts)] == 2
    assert counts[seen["alone_from"]] == 1
    # from a checkpoint of before
    assert seen["lost_at"] - SAVE_EVERY <= seen["alone_from"] <= seen["lost_at"] + SAVE_EVERY
    table = read_audit(tmp_path / "run" / "audit")
    pools, ids = table["pool"].to_numpy(), table["id"].to_numpy()
    epochs = pools // -(-ROWS // POOL)
    for epoch in range(EPOCHS):
        np.testing.assert_array_equal(np.sort(ids[epochs == epoch]), np.arange(ROWS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
