"""A Ray cluster of our own: started without what nobody asks, and ended with nothing left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysb.cluster import running_clusters
from raysb.own_cluster import lean

MARK = "RAYSB_TEST_OWN_CLUSTER"  # in the environment of all of its processes

UP_AND_DOWN = r"""
import pathlib
from ray._private import services, state
import raysb
from raysb.cluster import connected
from raysb.losses import cross_entropy

asked, real = [], state.GlobalState.get_node

def count(self, node_id):
    asked.append(node_id in {node["NodeID"] for node in self.node_table()})
    return real(self, node_id)

def words():
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if MARK in (entry / "environ").read_bytes().split(b"\0"):
                yield from (entry / "cmdline").read_text().split("\0")
        except OSError:
            pass

state.GlobalState.get_node = count
with connected() as ray:
    import numpy as np
    from torch import nn
    rows = {"x": np.ones((64, 2), np.float32), "label": np.arange(64) % 2}
    trainer = raysb.SelectiveTrainer(
        model=lambda: nn.Linear(2, 2), datasets={"train": rows}, loss=cross_entropy("label"),
        data=raysb.Data(inputs=("x",)), training=raysb.Training(epochs=1, batch_size=8),
    )
    assert trainer.fit().metrics["num_scored"] == 64
    left_out = ("monitor.py", "log_monitor.py", "dashboard.py")
    assert not [word for word in words() if pathlib.Path(word).name in left_out]
    named = {each["name"] for each in ray.util.list_named_actors(all_namespaces=True)}
    unasked = ("stats", "location", "autoscaling")
    assert not [name for name in named if any(kind in name.lower() for kind in unasked)], named
assert state.GlobalState.get_node is count
print(asked[0])
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_what_ray_would_start_is_left_out_in_the_block_and_back_after_it(verbose) -> None:
    from ray._private.node import Node
    from ray._private.state import GlobalState

    def hooks() -> dict[str, object]:
        starts = ("start_monitor", "start_api_server", "start_log_monitor", "start_gcs_server")
        return {"get_node": GlobalState.get_node, **{name: getattr(Node, name) for name in starts}}

    before, inside = hooks(), {}

    def start() -> None:
        with lean(verbose):
            inside.update(hooks())
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        start()
    assert hooks() == before
    kept = {"start_gcs_server"} | ({"start_log_monitor"} if verbose else set())
    assert {name for name in before if inside[name] is before[name]} == kept


@pytest.mark.slow
def test_a_run_needs_no_process_that_is_left_out_and_ends_with_all_the_others(tmp_path) -> None:
    if running := running_clusters():
        pytest.skip(f"beside the cluster {', '.join(running)}: run this file alone")
    environment = {**os.environ, MARK: str(os.getpid())}
    mark = f"{MARK}={os.getpid()}".encode()
    done = subprocess.run(
        [sys.executable, "-c", f"MARK = {mark!r}\n{UP_AND_DOWN}"],
        env=environment,
        cwd=tmp_path,  # its run directory is there
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert processes_with(mark) == []


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
