"""A disk that is full when a checkpoint is due: the run goes on, what was saved stays whole.

On a real disk of 2 MB, a tmpfs in a mount namespace of its own (as root, on Linux).
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RUN = """
import contextlib, json, os, subprocess, sys
from pathlib import Path

import torch
from torch import nn

folder, freed_at = Path(sys.argv[1]), int(sys.argv[2])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder]).returncode:
    sys.exit(77)
sys.path.insert(0, sys.argv[3])
from ray.train import RunConfig
from runs import build_net, rows

from raysb.errors import RunDirectoryError
from raysb.losses import cross_entropy
from raysb.report.records import read_metrics
from raysb.selection import SelectiveBackprop
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Training

torch.set_num_threads(1)
FULL_AT = 25
calls = 0


class Notes:
    notes, kinds = [], []
    def phase(self, name): pass
    def line(self, line): self.kinds.append((line["kind"], line["step"]))
    def note(self, text): self.notes.append(text)


def step(model, batch):
    global calls
    calls += 1
    if calls == FULL_AT:
        with contextlib.suppress(OSError), open(folder / "fill", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    if calls == freed_at:
        (folder / "fill").unlink()
    return nn.functional.cross_entropy(model(batch["x"]), batch["label"], reduction="none")


def fit(resume=False):
    return SelectiveTrainer(
        model=build_net, loss=cross_entropy("label"), datasets={"train": rows(400)},
        selector=SelectiveBackprop(min_probability=1.0), step=step, engine="local", resume=resume,
        data=Data(inputs=("x",)), watcher=Notes(), run_config=RunConfig(
            storage_path=str(folder), name="run"),
        training=Training(epochs=2, batch_size=8, checkpoint_every=10, use_gpu=False),
    ).fit()


error = resumed = None
try:
    result = fit()
except RunDirectoryError as told:
    error = str(told)
seen = {"error": error, "kinds": Notes.kinds, "notes": Notes.notes}
newest = Checkpoints(folder=str(folder / "run")).newest()
seen["newest"] = newest.step
if error:
    (folder / "fill").unlink()
    result = fit(resume=True)
seen["lines"] = [line["line"] for line in read_metrics(folder / "run")]
seen["steps"] = result.metrics["step"]
seen["files"] = sorted(path.name for path in (folder / "run").iterdir())
from safetensors.torch import load_file
model = load_file(folder / "run" / "model.safetensors")
seen["weights"] = [model[name].flatten().tolist() for name in sorted(model)]
print(json.dumps(seen))
"""


def run(folder: Path, freed_at: int) -> dict[str, Any]:
    here = str(Path(__file__).parent)
    words = ["unshare", "-m", sys.executable, "-W", "ignore", "-c", RUN, str(folder)]
    try:
        done = subprocess.run(
            [*words, str(freed_at), here], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("a mount of one's own is not allowed here")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_disk_that_is_full_costs_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    """With room again the run saves as before; without, its end is told and can be done again."""
    undisturbed = run(tmp_path, freed_at=25)
    room_again, full = run(tmp_path, freed_at=55), run(tmp_path, freed_at=-1)
    assert undisturbed["error"] is None
    assert room_again["error"] is None
    assert [step for kind, step in room_again["kinds"] if kind == "not saved"] == [30, 40, 50]
    assert room_again["newest"] == 100

    assert "the last checkpoint, of step 100, cannot be written" in full["error"]
    assert "No space left on device" in full["error"]
    assert "raysb train --resume" in full["error"]
    assert full["newest"] == 20  # the one before is whole: its digests were compared
    for seen in (room_again, full):
        assert seen["lines"] == list(range(len(seen["lines"])))  # of the metrics none is missing
        assert seen["steps"] == 100
        assert not [name for name in seen["files"] if "draft" in name or name.startswith(".check")]
        for one, other in zip(seen["weights"], undisturbed["weights"], strict=True):
            np.testing.assert_array_equal(one, other)
