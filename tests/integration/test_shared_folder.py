"""A machine that does not share the checkpoints' folder is named before anything trains.

Two machines in one: the second has a mount namespace of its own, in which a folder of the same name
is another one. The cluster lives in a process of its own, as Ray allows one for a process:
`pytest -m slow tests/integration/test_shared_folder.py`, as root.
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

import pytest

pytestmark = pytest.mark.slow  # 60 s
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
LIMIT_S = 240
FLAGS = """
  --data.train digits --model.name mlp --train.epochs 1 --scoring.num_cpus 0.5 --data.num_readers 1
  --run.loggers [] --train.num_cpus 0.5 --train.resources.trainer 1
"""


# --- in the process of the cluster ----------------------------------------------------------------


@contextmanager
def two_machines(private: Path) -> Iterator[str]:
    """A head for the driver and the scorers; a trainer with another folder of that name."""
    from raysb.cluster import NAMESPACE, prepare_environment

    prepare_environment()
    os.environ["RAY_AUTH_MODE"] = "disabled"  # as Cluster() starts its machines
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4})
    words = [*RAY, "start", "--address", cluster.address, "--num-cpus", "2", "--block"]
    words += ["--resources", '{"trainer": 1}', "--disable-usage-stats"]
    mount = f'mount -t tmpfs none "{private}" && exec "$@"'
    with open(os.devnull, "w") as nowhere:
        trainer = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", mount, "sh", *words], stdout=nowhere, stderr=nowhere
        )
    try:
        ray.init(cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes(1)
        while len([node for node in ray.nodes() if node["Alive"]]) < 2:
            assert trainer.poll() is None, "the second machine has ended"
            time.sleep(0.2)
        yield cluster.address
    finally:
        ray.shutdown()
        trainer.terminate()
        trainer.wait(60)
        cluster.shutdown()


def train(address: str, *flags: str) -> tuple[int, str]:
    """`raysb train` on the cluster, as anybody would start it."""
    words = ["train", "--address", address, *FLAGS.split(), *flags]
    done = subprocess.run(
        [sys.executable, "-m", "raysb", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout


def main(folder: Path) -> None:
    """Try three runs; leave what was seen as JSON."""
    private, shared = folder / "private", folder / "shared"
    private.mkdir()
    shared.mkdir()
    seen: dict[str, Any] = {}
    with two_machines(private) as address:
        run = ("--run.dir", str(private / "run"))
        seen["refused"] = train(address, *run)
        seen["written"] = [path.name for path in private.iterdir()]
        elsewhere = (*run, "--run.checkpoints", str(shared / "checkpoints"))
        seen["audit"] = train(address, *elsewhere, "--train.audit")
        seen["trained"] = train(address, *elsewhere)
    seen["run"] = sorted(path.name for path in (private / "run").iterdir())
    seen["checkpoints"] = sorted(path.name for path in (shared / "checkpoints").iterdir())
    (folder / "seen.json").write_text(json.dumps(seen))


# --- the tests ------------------------------------------------------------------------------------


def may_mount() -> bool:
    """Whether this process may have a mount namespace of its own."""
    asked = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from raysb.cluster import running_clusters

    if not may_mount():
        pytest.skip("a mount namespace of one's own is not allowed here")
    if running := running_clusters():  # two on one machine take each other's workers for their own
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    folder = tmp_path_factory.mktemp("shared")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=3 * LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "seen.json").read_text())


def test_a_run_whose_workers_have_another_folder_is_refused_with_nothing_written(seen) -> None:
    code, said = seen["refused"]
    assert code == 1
    assert "must be the same on every machine with a train worker" in said
    assert "another folder has this name there" in said
    assert "--run.checkpoints" in said
    assert "first batch" not in said
    assert seen["written"] == []


def test_checkpoints_on_a_disk_that_both_share_are_enough(seen) -> None:
    code, said = seen["trained"]
    assert code == 0, said
    assert "model.safetensors" in seen["run"]
    assert [name[:11] for name in seen["checkpoints"]] == ["checkpoint_"]  # and no token


def test_an_audit_into_a_folder_that_is_not_shared_is_refused(seen) -> None:
    code, said = seen["audit"]
    assert code == 1
    assert "train.audit=true" in said


if __name__ == "__main__":
    main(Path(sys.argv[1]))
