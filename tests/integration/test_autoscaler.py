"""A cluster whose machines come when they are asked for: scorers get theirs, and only when hungry.

Ray's own autoscaler, with machines that it plays on this one:
`pytest -m slow tests/integration/test_autoscaler.py`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow  # 150 s
MARK = "RAYSB_TEST_AUTOSCALER"  # in the environment of all processes of the cluster
LIMIT_S = 240
POOL, BATCH, MOST = 32, 16, 3
TYPES: dict[str, dict[str, Any]] = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "trainer": {
        "resources": {"CPU": 2, "trainer": 1},
        "node_config": {},
        "min_workers": 1,
        "max_workers": MOST,
    },
    "scorer": {  # room for one scorer that asks for .8 of `scorer`, and for a reader
        "resources": {"CPU": 2, "scorer": 1},
        "node_config": {},
        "min_workers": 1,
        "max_workers": 5,
    },
}
SETTINGS = {
    "cluster_name": "fake_multinode",
    "max_workers": 8,
    "available_node_types": TYPES,
    "head_node_type": "ray.head.default",
    "upscaling_speed": 20,
    "idle_timeout_minutes": 10,
    **{name: {} for name in ("auth", "docker", "file_mounts")},
    **{
        name: []
        for name in (
            *("initialization_commands", "setup_commands"),
            *("head_setup_commands", "worker_setup_commands"),
            *("head_start_ray_commands", "worker_start_ray_commands"),
            *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
        )
    },
}
MODEL = """
import time
from torch import nn

class Slow(nn.Sequential):
    def forward(self, x):
        time.sleep(0.25 if self.training is self.when else 0)
        return super().forward(x.float())

def slow_to_score():
    return build(False)

def slow_to_train():
    return build(True)

def build(when):
    net = Slow(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    net.when = when
    return net
"""
OFFERS = """
import json, sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps([node["Resources"] for node in ray.nodes() if node["Alive"]]))
"""
FLAGS = f"""
  --data.inputs x --data.test_fraction 0 --data.num_readers 1 --train.epochs 1
  --selector.min_probability 1 --scoring.num_actors 1,{MOST} --scoring.batch_size {POOL}
  --scoring.num_cpus 0.5 --scoring.resources.scorer 0.8
  --train.resources.trainer 1 --train.batch_size {BATCH} --run.loggers []
"""


class Cluster:
    """A head without CPUs, and machines that Ray's autoscaler starts and ends.

    Args:
        folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.mark = f"{MARK}={os.getpid()}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
            **{MARK: str(os.getpid()), "RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1"},
            **{"AUTOSCALER_UPDATE_INTERVAL_S": "1", "OMP_NUM_THREADS": "1"},
            "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        }

    def start(self) -> None:
        """Bring the head up, and the machines that are always there."""
        config = self.folder / "autoscaling.json"
        provider = {
            "type": "fake_multinode",
            "gcs_address": self.address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        }
        config.write_text(json.dumps(SETTINGS | {"provider": provider}))
        port = self.address.split(":")[1]
        words = ["start", "--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false"]
        ray = Path(sys.executable).parent / "ray"
        subprocess.run(
            [ray, *words, "--disable-usage-stats", f"--autoscaling-config={config}"],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        end = time.monotonic() + LIMIT_S
        while self.machines() != {"scorer": 1, "trainer": 1}:
            assert time.monotonic() < end, self.machines()
            time.sleep(0.5)

    def machines(self) -> dict[str, int]:
        """How many there are that offer a custom resource, by its name."""
        asked = subprocess.run(
            [sys.executable, "-c", OFFERS, self.address],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        offers = json.loads(asked.stdout.splitlines()[-1])
        return {name: n for name in ("scorer", "trainer") if (n := sum(name in o for o in offers))}

    def train(self, model: str, rows: int) -> list[dict[str, Any]]:
        """`raysb train` on it; returns the lines of its metrics."""
        run = self.folder / model
        write_rows(self.folder / f"{model}.parquet", rows)
        words = ["--address", self.address, "--data.train", str(self.folder / f"{model}.parquet")]
        words += ["--model.name", f"slow_net:{model}", "--run.dir", str(run), *FLAGS.split()]
        done = subprocess.run(
            [sys.executable, "-m", "raysb", "train", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def end(self) -> None:
        """End what carries the mark, and nothing else."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)


def write_rows(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    x = pa.FixedSizeListArray.from_arrays(rng.normal(size=count * 6).astype(np.float32), 6)
    pq.write_table(pa.table({"x": x, "label": rng.integers(3, size=count)}), path)


def most_scorers(lines: list[dict[str, Any]]) -> int:
    return max(line.get("scorers/running", 0) for line in lines)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    from raysb.cluster import running_clusters

    if running := running_clusters():
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    folder = tmp_path_factory.mktemp("autoscaler")
    (folder / "slow_net.py").write_text(MODEL)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def test_fed_trainers_get_no_machine_and_hungry_ones_get_those_that_scorers_need(cluster) -> None:
    few = cluster.train("slow_to_train", 1000)
    assert most_scorers(few) == 1
    assert cluster.machines() == {"scorer": 1, "trainer": 1}
    many = cluster.train("slow_to_score", 9000)
    assert most_scorers(many) == MOST
    assert cluster.machines() == {"scorer": MOST, "trainer": 1}  # not one for the trainers
    assert sum(line["num_backpropped"] for line in many if line["kind"] == "end") == 9000
