"""Checkpoints are whole or absent, damage is noticed, the last ones and the best one stay."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs
from torch import nn

from raysb.errors import RunDirectoryError
from raysb.report import directory
from raysb.training import checkpoints
from raysb.training.checkpoints import MANIFEST, Checkpoints


def parts(value=0.0):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    return {
        "model": model,
        "learner": {"optimizer": {}},
        "stream": {"cursor": {"low": 3}},
        "history": {"id": np.arange(5)},
    }


@pytest.fixture(params=["local", "uri"])
def store(request, tmp_path):
    """On a local folder, and on a file system that is reached by a URI."""
    folder = tmp_path / "checkpoints"
    return Checkpoints(folder=str(folder) if request.param == "local" else f"file://{folder}")


def weight(store, entry):
    model = nn.Linear(3, 2)
    store.load(entry, model)
    return model.weight[0, 0].item()


def names(store):
    return [entry.name for entry in store.entries()]


def test_the_newest_comes_back_and_the_last_k_stay(store) -> None:
    assert store.newest() is None
    assert store.entries() == []
    for step in (5, 10, 15):
        store.save(step, **parts(step))
    assert names(store) == ["checkpoint_000000010", "checkpoint_000000015"]
    newest = store.newest()
    assert (newest.step, weight(store, newest)) == (15, 15.0)
    assert store.newest_history()["id"].tolist() == [0, 1, 2, 3, 4]


def test_the_best_one_stays_and_of_equal_ones_the_newest(store) -> None:
    for step, score in enumerate((0.5, 0.2, None, 0.2, 0.4, None, 0.3)):
        store.save(step, score=score, **parts())
    assert [entry.step for entry in store.entries()] == [3, 5, 6]
    assert store.best().step == 3


def test_a_step_that_is_saved_again_replaces_its_checkpoint(store) -> None:
    store.save(1, **parts(1.0))
    store.save(1, **parts(2.0))
    assert len(names(store)) == 1
    assert weight(store, store.newest()) == 2.0


def test_one_that_fails_half_way_is_never_seen_and_leaves_the_one_before(store) -> None:
    store.save(1, **parts(1.0))
    with pytest.raises(TypeError):
        store.save(2, **parts() | {"history": {"bad": object()}})  # no JSON: fails last
    assert names(store) == ["checkpoint_000000001"]
    folder = Path(store.folder.removeprefix("file://"))
    assert [p.name for p in folder.iterdir()] == ["checkpoint_000000001"]


def test_a_folder_without_its_manifest_is_no_checkpoint(store) -> None:
    store.save(1, **parts(1.0))
    store.save(2, **parts(2.0))
    folder = Path(store.folder.removeprefix("file://"))
    (folder / "checkpoint_000000002" / MANIFEST).unlink()
    assert store.newest().step == 1
    (folder / "checkpoint_000000001" / MANIFEST).write_text("{")
    assert store.newest() is None


@pytest.mark.parametrize("file", ["model.safetensors", "train.pt", "stream.json", "history.npz"])
@pytest.mark.parametrize("damage", ["short", "flipped", "gone"])
def test_damage_is_noticed_before_anything_is_loaded(store, file, damage) -> None:
    store.save(1, **parts(1.0))
    store.save(2, **parts(2.0))
    path = Path(store.folder.removeprefix("file://")) / "checkpoint_000000002" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.unlink() if damage == "gone" else path.write_bytes(
        content[:-1] if damage == "short" else content
    )
    entry = store.entries()[-1]
    with pytest.raises(RunDirectoryError, match=file):
        store.load(entry, nn.Linear(3, 2))
    if damage != "flipped" or "://" not in store.folder:
        with pytest.warns(UserWarning, match="is damaged"):
            assert store.newest().step == 1


def test_another_version_is_refused_by_name(store) -> None:
    store.save(1, **parts())
    path = Path(store.folder.removeprefix("file://")) / "checkpoint_000000001" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(RunDirectoryError, match="version 99"):
        store.load(store.newest(), nn.Linear(3, 2))


def test_on_another_file_system_the_manifest_is_written_last(tmp_path, monkeypatch) -> None:
    written = []
    copy = fs.copy_files
    monkeypatch.setattr(
        checkpoints.fs, "copy_files", lambda s, d, **k: (written.append(d), copy(s, d, **k))
    )
    Checkpoints(folder=f"file://{tmp_path}/c").save(1, **parts())
    assert len(written) == 5
    assert written[-1].endswith(MANIFEST)


def test_others_may_read_a_checkpoint_as_they_may_any_new_folder_or_file(tmp_path) -> None:
    name = Checkpoints(folder=str(tmp_path)).save(1, **parts())
    (tmp_path / "plain").mkdir()
    assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "file").touch()
    modes = {file.stat().st_mode for file in (tmp_path / name).iterdir()}
    assert modes == {(tmp_path / "file").stat().st_mode}


def test_a_full_disk_leaves_the_checkpoints_there_are(tmp_path, monkeypatch) -> None:
    store = Checkpoints(folder=str(tmp_path))
    store.save(1, **parts(1.0))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(2, **parts(2.0))
    assert [entry.step for entry in store.entries()] == [1]
    assert os.listdir(tmp_path) == ["checkpoint_000000001"]


def test_the_names_are_those_that_a_run_directory_knows() -> None:
    assert checkpoints.CHECKPOINT == directory.CHECKPOINT


def test_the_one_just_written_stays_and_later_ones_of_an_undone_past_go(store) -> None:
    one = Checkpoints(folder=store.folder, keep=1)
    one.save(4, score=0.1, **parts(4.0))
    one.save(8, **parts(8.0))
    one.save(6, **parts(6.0))  # after a resume from step 4
    assert [entry.step for entry in one.entries()] == [4, 6]


def test_a_damaged_best_is_no_best(tmp_path) -> None:
    store = Checkpoints(folder=str(tmp_path), keep=3)
    for step, score in ((1, 0.1), (2, 0.3)):
        store.save(step, score=score, **parts())
    (tmp_path / "checkpoint_000000001" / "train.pt").write_bytes(b"")
    assert store.best().step == 2


def test_a_full_disk_is_an_oserror_whichever_file_it_cuts_off(tmp_path) -> None:
    """torch raises a RuntimeError of its own then, safetensors another one: runs ended by them."""
    try:
        asked = ["unshare", "-m", sys.executable, "-c", FULL_DISK, str(tmp_path)]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip("a mount of one's own is not allowed here")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"full": 11, "kept": 12, "left": ["checkpoint_000000001"]}


FULL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from raysb.training.checkpoints import Checkpoints

folder = Path(sys.argv[1])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder]).returncode:
    sys.exit(77)
model = nn.Linear(250, 100)  # 100 kB in each file
parts = {"model": model, "stream": {"text": "x" * 100_000}, "history": {"id": np.arange(12_500)},
         "learner": {"optimizer": {"state": model.weight.detach().clone()}}}
store = Checkpoints(folder=str(folder))
store.save(1, **parts)
full = kept = 0
for room in range(0, 440_000, 40_000):
    stat = os.statvfs(folder)
    (folder / "fill").write_bytes(bytes(stat.f_bavail * stat.f_frsize - room))
    try:
        store.save(2, **parts)
    except OSError:
        full += 1
    kept += store.newest().step == 1
    (folder / "fill").unlink()
kept += store.newest().step == 1
print(json.dumps({"full": full, "kept": kept, "left": sorted(os.listdir(folder))}))
"""
