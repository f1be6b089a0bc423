"""A real job on a real head: uploaded, authenticated, run on the cluster that it was given to.

`pip install 'raysb[cluster]'`, then `pytest -m slow tests/integration/test_job_submit.py`.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

for needed in ("aiohttp", "colorful", "opencensus"):
    pytest.importorskip(
        needed, reason="ray[default] is not installed: pip install 'raysb[cluster]'"
    )
pytestmark = pytest.mark.slow  # 60 s
ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
START_S, JOB_S = 120, 480
CONFIG = """
[data]
train = "digits"
num_readers = 1
[model]
name = "mlp"
[scoring]
num_cpus = 0.5
resources = { here = 1 }  # that this head alone has
[train]
epochs = 2
num_cpus = 0.5
"""


@dataclass(frozen=True)
class Head:
    """A head of its own, and what one must know to give it a job."""

    dashboard: str
    environment: dict[str, str]

    def submit(
        self, folder: Path, *words: str, **changed: str
    ) -> "subprocess.CompletedProcess[str]":
        to = ("--address", self.dashboard, "--working-dir", str(folder))
        return subprocess.run(
            [*RAY, "job", "submit", *to, "--", *words],
            env={**self.environment, **changed},
            capture_output=True,
            text=True,
            timeout=JOB_S,
            check=False,
        )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head as cluster.yaml starts it, its processes ended by their parent afterwards."""
    from raysb.cluster import running_clusters

    if running := running_clusters():  # two on one machine take each other's workers for their own
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    gcs, dashboard = free_port(), free_port()
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    words = [
        "--port",
        str(gcs),
        "--dashboard-port",
        str(dashboard),
        "--dashboard-host",
        "127.0.0.1",
    ]
    words += ["--num-cpus", "4", "--resources", '{"here": 2}', "--disable-usage-stats", "--block"]
    process = subprocess.Popen(
        [*RAY, "start", "--head", *words],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        wait_for_port(dashboard, process, Path(log.name))
        yield Head(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        process.terminate()  # with --block it takes all that it started along
        process.wait(START_S)
        log.close()


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(log.read_text()[-4000:])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a configuration, and with what must not be uploaded."""
    shutil.copy(ROOT / ".rayignore", tmp_path)
    (tmp_path / "job.toml").write_text(CONFIG)
    for name in (".git/HEAD", "runs/old/model.bin", ".venv/bin/x", "rows.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("large")
    return tmp_path


def test_a_job_trains_on_its_own_cluster_with_what_was_uploaded(head, folder, tmp_path_factory):
    """Inside a job Ray sets RAY_ADDRESS; a run that started a cluster of its own would be refused
    for the custom resource that only this head offers."""
    run = tmp_path_factory.mktemp("shared") / "run"
    script = f"ls -A; {sys.executable} -m raysb train --config job.toml --run.dir {run}"
    done = head.submit(folder, "sh", "-c", script)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "succeeded" in said
    assert f"written: {run}" in said
    assert (run / "model.safetensors").exists()
    uploaded = set(said.split())
    assert "job.toml" in uploaded
    assert not {".git", "runs", ".venv", "rows.parquet"} & uploaded


def test_a_job_that_asks_for_what_no_machine_offers_fails_with_the_key_to_change(head, folder):
    words = ("--config", "job.toml", "--scoring.resources.there", "1")
    done = head.submit(folder, sys.executable, "-m", "raysb", "train", *words)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "scoring.resources: no machine offers there=1; they offer here" in said


def test_a_job_without_the_token_is_refused(head, folder):
    done = head.submit(folder, "touch", str(folder / "ran"), RAY_AUTH_TOKEN=secrets.token_hex(16))
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()
    assert not (folder / "ran").exists()
