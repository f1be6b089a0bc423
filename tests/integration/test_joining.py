"""Clusters that others have started, with token authentication and without, joined by address.

Each in a process of its own, as Ray allows one for a process:
`pytest -m slow tests/integration/test_joining.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # 60 s
TOKEN = "0123456789abcdef" * 4

JOIN = """
import sys
from raysb.cluster import connected
from raysb.errors import ResourceError

try:
    with connected(sys.argv[1]) as ray:
        print("joined", ray.get(ray.remote(num_cpus=0)(lambda: 7).remote()))
except ResourceError as error:
    print("refused", error)
"""
CLUSTER = """
import os, subprocess, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.wait_for_nodes()
os.environ.pop("RAY_AUTH_MODE")  # of the cluster; whoever joins it says nothing
if "mode" in sys.argv[1]:
    os.environ["RAY_AUTH_MODE"] = sys.argv[1].split("=")[1]
if sys.argv[1] in ("no token", "wrong token"):
    os.environ["HOME"] = sys.argv[2]
if sys.argv[1] == "wrong token":
    with open(f"{sys.argv[2]}/.ray/auth_token", "w") as file:
        file.write("f" * 64)
print(subprocess.run(
    [sys.executable, "-c", JOIN, cluster.address], capture_output=True, text=True
).stdout)
cluster.shutdown()
"""


@pytest.mark.parametrize(
    ("cluster", "joins", "said"),
    [
        ("token", "token", "joined 7"),
        ("token", "no token", "refused"),
        ("token", "wrong token", "refused"),
        ("token", "mode=token", "joined 7"),
        ("disabled", "no token", "joined 7"),
        ("disabled", "mode=disabled", "joined 7"),
        ("disabled", "token", "refused"),
        ("disabled", "mode=token", "refused"),
    ],
)
def test_a_cluster_is_joined_as_it_was_started_or_refused_at_once(tmp_path, cluster, joins, said):
    """With a token that the cluster does not know of, every actor would die before it begins."""
    from raysb.cluster import running_clusters

    if running := running_clusters():
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    home, bare = tmp_path / "home", tmp_path / "bare"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (bare / ".ray").mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", f"JOIN = {JOIN!r}{CLUSTER}", joins, str(bare)],
        env={
            **environment,
            **{"RAY_AUTH_MODE": cluster, "HOME": str(home)},
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said in done.stdout, done.stdout + done.stderr[-3000:]
    if said == "refused":
        assert "RAY_AUTH_MODE=disabled" in done.stdout
        assert "before this process starts" in done.stdout
