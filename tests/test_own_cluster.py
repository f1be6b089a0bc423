"""A Ray cluster of our own: started and ended without Ray's idle seconds, and with nothing left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysb.cluster import running_clusters
from raysb.own_cluster import end_monitor, looking_often

MARK = "RAYSB_TEST_OWN_CLUSTER"  # in the environment of all of its processes

UP_AND_DOWN = """
from ray._private import services, state
from raysb.cluster import connected

asked, real = [], state.GlobalState.get_node

def count(self, node_id):
    asked.append(node_id in {node["NodeID"] for node in self.node_table()})
    return real(self, node_id)

state.GlobalState.get_node = count
with connected() as ray:
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
assert state.GlobalState.get_node is count
print(asked[0])
"""


def test_rays_own_way_to_look_is_back_whatever_happens() -> None:
    from ray._private.state import GlobalState

    before, seen = GlobalState.get_node, []

    def start() -> None:
        with looking_often():
            seen.append(GlobalState.get_node)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        start()
    assert seen[0] is not before
    assert GlobalState.get_node is before


def test_without_a_cluster_there_is_no_monitor_to_end() -> None:
    end_monitor()


@pytest.mark.slow
def test_ray_is_asked_for_its_node_when_it_is_there_and_ends_with_all_its_processes() -> None:
    if running := running_clusters():
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    environment = {**os.environ, MARK: str(os.getpid())}
    done = subprocess.run(
        [sys.executable, "-c", UP_AND_DOWN],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert processes_with(f"{MARK}={os.getpid()}".encode()) == []


def processes_with(mark: bytes) -> list[str]:
    """What runs with a mark in its environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found
