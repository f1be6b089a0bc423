"""Several machines in one: who lies where, and a scorer's machine that is taken away mid-run.

The cluster lives in a process of its own, as Ray allows one for a process:
`pytest -m slow tests/integration/test_simulated_cluster.py`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # 80 s
ROWS, EPOCHS, BATCH, POOL, WORKERS = 600, 2, 8, 30, 2
SCORER = {"num_cpus": 2, "resources": {"scorer": 3}}  # room for one scorer that asks for 2 of 3
TRAINER = {"num_cpus": 4, "resources": {"trainer": 2}}
LIMIT_S = 240
PROMPT = {  # Ray takes 15 s to believe that a machine is gone
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


# A step long enough for machines to come and go during the run.
MODEL = """
import time
from torch import nn

class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.25 * self.training)
        return super().forward(x.float())

def build():
    return Slow(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
"""
FLAGS = f"""
  --data.inputs x --data.test_fraction 0 --data.num_readers 1 --model.name slow_net:build
  --selector.min_probability 1 --scoring.num_actors 2 --scoring.batch_size {POOL}
  --train.epochs {EPOCHS} --train.batch_size {BATCH} --train.num_workers {WORKERS} --train.audit
"""


# --- in the process of the cluster ----------------------------------------------------------------


@contextmanager
def simulated() -> Iterator[tuple[Any, dict[str, Any]]]:
    """A head without CPUs, two scorer machines, one trainer machine; the driver on the head."""
    from raysb.cluster import NAMESPACE, prepare_environment

    prepare_environment()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as Cluster() starts its machines
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "resources": {"head": 1}, "_system_config": PROMPT}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    added = [cluster.add_node(**machine) for machine in (SCORER, SCORER, TRAINER)]
    machines = {each.node_id: each for each in added}
    cluster.wait_for_nodes()
    ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster, machines
    finally:
        ray.shutdown()
        cluster.shutdown()


def actors() -> list[tuple[str, str, str]]:
    """(class, what its machine offers, id of its machine) of every actor on a machine alive."""
    import ray

    offers = {n["NodeID"]: _offer(n["Resources"]) for n in ray.nodes() if n["Alive"]}
    found = ray._private.state.actors().values()  # the public one asks a dashboard
    placed = [(each["ActorClassName"], each["Address"]["NodeID"], each["State"]) for each in found]
    return sorted(
        (name, offers[node], node)
        for name, node, state in placed
        if state == "ALIVE" and node in offers
    )


def _offer(resources: dict[str, float]) -> str:
    return next(name for name in ("head", "scorer", "trainer") if name in resources)


def machines_of(name: str) -> list[str]:
    """The machines of the actors of a class."""
    return [node for actor, _, node in actors() if name in actor]


def wait_for(condition: Any, what: str, going: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if going.poll() is not None or time.monotonic() > end:
            going.kill()
            raise TimeoutError(f"{what}: {going.communicate()[0][-4000:]}")
        time.sleep(0.1)


def train(folder: Path, address: str, *flags: str) -> "subprocess.Popen[str]":
    """`raysb train` on the cluster, as anybody would start it."""
    words = ["train", "--address", address, "--data.train", str(folder / "rows.parquet")]
    return subprocess.Popen(
        [sys.executable, "-m", "raysb", *words, *FLAGS.split(), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write_rows(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    x = pa.FixedSizeListArray.from_arrays(rng.normal(size=ROWS * 6).astype(np.float32), 6)
    table = {"id": np.arange(ROWS), "x": x, "label": rng.integers(3, size=ROWS)}
    pq.write_table(pa.table(table), folder / "rows.parquet")


def shards_are(count: int, without: str | None = None) -> list[str]:
    """The machines of the history's shards: when there are so many, none on one, or time is up.

    The processes of a machine that is taken away answer for some seconds, until Ray misses it.
    """
    end = time.monotonic() + LIMIT_S / 4
    while time.monotonic() < end:
        found = machines_of("HistoryShard")
        if len(found) == count and without not in found:
            break
        time.sleep(0.1)
    return found


def with_a_shard_lost(cluster: Any, machines: dict[str, Any], run: Path) -> dict[str, Any]:
    """The run's history on shards of several machines, one of which dies with its shards."""
    from raysb.history.shards import LossHistory
    from raysb.training.checkpoints import Checkpoints

    saved = Checkpoints(folder=str(run))
    shards_are(0)  # those of the run that has ended are gone
    history = LossHistory.start(8, snapshot=saved.newest_history)
    history.load_state_dict(saved.newest_history())
    before = history.export()
    held = shards_are(8)
    lost = next(node for node in held if node in machines)  # not the head
    cluster.remove_node(machines[lost], allow_graceful=False)
    now = shards_are(8, without=lost)
    after = history.export()
    same = [name for name in before if np.array_equal(before[name], after[name])]
    return {
        "lost": held.count(lost),
        "elsewhere": len(now) == len(held) and lost not in now,
        "ids": len(before["id"]),
        "scored": before["times_scored"].tolist(),
        "differ": sorted(set(before) - set(same)),
    }


def main(folder: Path) -> None:
    """Train; take a scorer's machine away, bring another; leave what was seen as JSON."""
    (folder / "slow_net.py").write_text(MODEL)
    write_rows(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    run, began, seen = folder / "run", time.monotonic(), dict[str, Any]()

    def note(name: str) -> None:
        seen[f"{name}_s"] = round(time.monotonic() - began, 1)

    def steps() -> int:
        return len(list((run / "audit").glob("step-*-rank-0000.parquet")))

    def reach(count: int) -> None:
        wait_for(lambda: steps() >= count, f"step {count}", going)

    with simulated() as (cluster, machines):
        note("up")
        refused = train(folder, cluster.address, "--run.dir", str(run), "--train.resources.typo=1")
        seen["refused"] = [refused.communicate()[0], refused.returncode, run.exists()]
        note("refused")
        flags = ("--scoring.resources.scorer=2", "--train.resources.trainer=1")
        going = train(folder, cluster.address, "--run.dir", str(run), *flags)
        reach(10)
        seen["before"] = actors()
        seen["taken"] = machines_of("PoolReader")[0]  # with it goes one of the scorers
        note("taken_away")
        cluster.remove_node(machines[seen["taken"]], allow_graceful=False)
        reach(steps() + 1)
        another = cluster.add_node(**SCORER)
        machines[another.node_id] = another
        note("another")
        wait_for(lambda: len(set(machines_of("PoolScorer"))) == 2, "two scorers", going)
        seen["after"] = actors()
        note("scorers_back")
        seen["said"] = going.communicate()[0]
        seen["code"] = going.returncode
        note("end")
        seen["history"] = with_a_shard_lost(cluster, machines, run)
        note("history")
    (folder / "seen.json").write_text(json.dumps(seen))


# --- the tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    from raysb.cluster import running_clusters

    if running := running_clusters():  # two on one machine take each other's workers for their own
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    folder = tmp_path_factory.mktemp("cluster")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=2 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "seen.json").read_text()), folder


def machines_by_class(found: list[list[str]]) -> dict[str, list[tuple[str, str]]]:
    by_class: dict[str, list[tuple[str, str]]] = {}
    for name, offer, node in found:
        by_class.setdefault(name.split("(")[-1].rstrip(")"), []).append((offer, node))
    return by_class


def test_scorers_lie_on_scorer_machines_workers_on_the_trainer_and_the_rest_on_the_head(seen):
    found = machines_by_class(seen[0]["before"])
    assert {offer for offer, _ in found["PoolScorer"]} == {"scorer"}
    assert len({node for _, node in found["PoolScorer"]}) == 2
    assert [offer for offer, _ in found["PoolReader"]] == ["scorer"]
    assert [offer for offer, _ in found["RayTrainWorker"]] == ["trainer"] * WORKERS
    for name in ("LedgerService", "BoardState", "HistoryShard", "TrainController"):
        assert [offer for offer, _ in found[name]] == ["head"], name  # without them no run goes on
    on_scorers = {name for name, where in found.items() if "scorer" in dict(where)}
    assert on_scorers == {"PoolScorer", "PoolReader"}  # nothing else goes with a spot machine


def test_after_a_scorer_machine_is_replaced_its_scorer_lies_on_the_new_one(seen):
    after = machines_by_class(seen[0]["after"])
    assert len({node for _, node in after["PoolScorer"]}) == 2
    assert seen[0]["taken"] not in {node for _, node in after["PoolScorer"] + after["PoolReader"]}
    known = {node for _, _, node in seen[0]["before"]}
    assert {node for _, node in after["PoolScorer"]} - known


def test_a_scorer_machine_taken_away_costs_no_row(seen):
    from raysb.training.audit import read_audit

    found, folder = seen
    assert found["code"] == 0, found["said"]
    audit = read_audit(folder / "run" / "audit")
    pools, ids = audit["pool"].to_numpy(), audit["id"].to_numpy()
    epochs = pools // -(-ROWS // POOL)
    for epoch in range(EPOCHS):
        np.testing.assert_array_equal(np.unique(ids[epochs == epoch]), np.arange(ROWS))
    assert len(ids) == ROWS * EPOCHS  # and none is trained twice


def test_the_history_survives_the_death_of_a_machine_with_some_of_its_shards(seen):
    """They come back on other machines, with what the newest checkpoint knows of their ids."""
    found = seen[0]["history"]
    assert found["lost"] >= 1
    assert found["elsewhere"]
    assert found["ids"] == ROWS
    assert set(found["scored"]) == {EPOCHS}  # none has been forgotten in the run either
    assert found["differ"] == []


def test_a_custom_resource_that_no_machine_offers_is_refused_with_the_key_to_change(seen):
    said, code, written = seen[0]["refused"]
    assert code == 1
    assert "train.resources: no machine offers typo=1; they offer head, scorer, trainer" in said
    assert "change train.resources" in said
    assert not written


if __name__ == "__main__":
    main(Path(sys.argv[1]))
