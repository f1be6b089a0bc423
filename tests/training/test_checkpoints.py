"""Checkpoints are whole or absent, damage is noticed, the last ones and the best one stay."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from saved import parts

from raysb.errors import ModelError, RunDirectoryError
from raysb.report import directory
from raysb.training import checkpoint, checkpoints
from raysb.training.checkpoints import BEFORE, MANIFEST, UNFINISHED, Checkpoints


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


def test_a_shard_that_is_given_the_history_to_come_loads_no_torch(store) -> None:
    """A second of its start; what it is given reads when it is called."""
    looks = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    given = pickle.dumps(store.newest_history)
    done = subprocess.run(
        [sys.executable, "-c", looks], input=given, capture_output=True, check=True
    )
    assert done.stdout == b"False\n"


def test_the_best_one_stays_and_of_equal_ones_the_newest(store) -> None:
    for step, score in enumerate((0.5, 0.2, None, 0.2, 0.4, None, 0.3)):
        store.save(step, score=score, **parts())
    assert [entry.step for entry in store.entries()] == [3, 5, 6]
    assert store.best().step == 3


def test_a_score_that_is_not_a_number_is_never_the_best(store) -> None:
    for step, score in enumerate((float("nan"), 0.5, float("nan"))):
        store.save(step, score=score, **parts())
    assert store.best().step == 1


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


def folder_of(store, step=None):
    folder = Path(store.folder.removeprefix("file://"))
    return folder if step is None else folder / f"checkpoint_{step:09d}"


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def into_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 4, *path.read_bytes()[1:]])
    ),
    "a folder": into_folder,
    "a list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "step as text": lambda path: rewrite(path, step="2"),
    "no step": lambda path: rewrite(path, step=None),
    "another step": lambda path: rewrite(path, step=3),
    "score as text": lambda path: rewrite(path, score="x"),
    "no files": lambda path: rewrite(path, files={}),
    "a list of files": lambda path: rewrite(path, files=[]),
    "a file of 3": lambda path: rewrite(path, files={"model.safetensors": 3}),
    "a file elsewhere": lambda path: rewrite(
        path, files=json.loads(path.read_text())["files"] | {"../x": [0, "0" * 64]}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_manifest_is_told_and_where_none_is_left_nothing_begins_anew(
    store, damage
) -> None:
    assert store.newest() is None  # none was written: no error
    store.save(1, **parts(1.0))
    store.save(2, **parts(2.0))
    DAMAGES[damage](folder_of(store, 2) / MANIFEST)
    with pytest.warns(UserWarning, match=r"checkpoint_000000002 is damaged \(.*manifest\.json"):
        assert store.newest().step == 1
    assert [entry.step for entry in store.entries()] == [1]
    shutil.rmtree(folder_of(store, 1))
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RunDirectoryError, match=r"none can be used.*000000002: .*begin anew"),
    ):
        store.newest()


def test_a_damaged_manifest_takes_no_slot_and_goes_when_others_are_there(store) -> None:
    for step in (1, 2, 3):
        store.save(step, **parts())
    (folder_of(store, 2) / MANIFEST).write_text("[]")
    (folder_of(store, 3) / MANIFEST).unlink()
    store.save(4, **parts())
    assert [path.name for path in folder_of(store).iterdir()] == ["checkpoint_000000004"]


def test_a_checkpoint_whose_manifest_a_disk_fails_to_give_is_not_removed(
    store, monkeypatch
) -> None:
    """The next time it may give it: only what is surely none is cleared away."""
    one = Checkpoints(folder=store.folder, keep=1)
    one.save(1, **parts())
    real = checkpoints.manifest.parse

    def failing(content):
        if b'"step": 1,' in content:
            raise OSError(5, "Input/output error")
        return real(content)

    monkeypatch.setattr(checkpoints.manifest, "parse", failing)
    one.save(2, **parts())
    monkeypatch.undo()
    assert [entry.step for entry in one.entries()] == [1, 2]


def test_folders_of_other_names_are_none_of_the_library_s(store) -> None:
    folder = folder_of(store)
    for name in ("checkpoint_of_mine", ".checkpoint_of_mine-1", "checkpoint_1"):
        (folder / name).mkdir(parents=True)
    assert store.newest() is None
    store.save(1, **parts())
    assert len(list(folder.iterdir())) == 4


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


# --- a writer that dies, or may not -----------------------------------------------------------


class Dies(BaseException):
    """The process ends here: nobody catches it."""


def dying(*args, **kwargs):
    raise Dies


def test_one_that_was_set_aside_gives_way_and_takes_no_slot(tmp_path, monkeypatch) -> None:
    """The writer died between the move and the removal, then saved the same step again."""
    store = Checkpoints(folder=str(tmp_path), keep=2)
    store.save(4, **parts(4.0))
    store.save(5, **parts(5.0))
    shutil.copytree(tmp_path / "checkpoint_000000005", tmp_path / f"checkpoint_000000005{BEFORE}")
    assert [entry.step for entry in store.entries()] == [4, 5]
    store.save(5, **parts(6.0))
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_000000004", "checkpoint_000000005"]
    assert weight(store, store.newest()) == 6.0


def test_one_that_was_set_aside_serves_until_another_is_in_its_place(tmp_path) -> None:
    store = Checkpoints(folder=str(tmp_path), keep=1)
    store.save(5, **parts(5.0))
    (tmp_path / "checkpoint_000000005").rename(tmp_path / f"checkpoint_000000005{BEFORE}")
    assert weight(store, store.newest()) == 5.0
    store.save(5, **parts(6.0))
    assert weight(store, store.newest()) == 6.0
    assert os.listdir(tmp_path) == ["checkpoint_000000005"]


def test_what_a_dead_writer_left_is_cleared_away(tmp_path) -> None:
    store = Checkpoints(folder=str(tmp_path))
    scratch = tmp_path / ".checkpoint_000000005-ab12cd" / "new"
    scratch.mkdir(parents=True)
    (scratch / "train.pt").write_bytes(bytes(100))
    half = tmp_path / "checkpoint_000000002"
    half.mkdir()
    store.save(6, **parts())
    assert os.listdir(tmp_path) == ["checkpoint_000000006"]


def test_room_is_made_before_it_is_taken(tmp_path, monkeypatch) -> None:
    """What a dead writer left may be all the room there is."""
    scratch = tmp_path / ".checkpoint_000000005-ab12cd"
    scratch.mkdir()
    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(Dies):
        Checkpoints(folder=str(tmp_path)).save(6, **parts())
    assert not os.listdir(tmp_path)


def test_a_checkpoint_that_is_half_removed_is_none(store, monkeypatch) -> None:
    """It would be one that is damaged, and its score that of the best."""
    one = Checkpoints(folder=store.folder, keep=1)
    one.save(1, **parts())
    filesystem = one._where.filesystem
    monkeypatch.setattr(Checkpoints, "_commit", lambda *args: None)
    monkeypatch.setattr(Checkpoints, "_outlived", lambda *args: ["checkpoint_000000001"])
    monkeypatch.setattr(checkpoints.Folder, "filesystem", property(lambda _: Deaf(filesystem)))
    with pytest.raises(Dies):
        one.save(2, **parts())
    monkeypatch.undo()
    assert (folder_of(one, 1) / "model.safetensors").is_file()
    assert one.entries() == []


class Deaf:
    """A file system on which the process dies when a folder is to be removed."""

    def __init__(self, filesystem) -> None:
        self.filesystem, self.delete_dir = filesystem, dying

    def __getattr__(self, name):
        return getattr(self.filesystem, name)


@pytest.mark.parametrize("uploaded", range(5))
def test_half_an_upload_over_another_is_no_checkpoint_and_no_damage(
    tmp_path, monkeypatch, uploaded
) -> None:
    store, real, calls = Checkpoints(folder=f"file://{tmp_path}/c"), fs.copy_files, []
    store.save(5, score=0.1, **parts(1.0))

    def cut(source, target, **options):
        calls.append(target)
        return dying() if len(calls) > uploaded else real(source, target, **options)

    monkeypatch.setattr(checkpoints.fs, "copy_files", cut)
    with pytest.raises(Dies):
        store.save(5, score=0.2, **parts(2.0))
    assert store.entries() == []
    assert store.newest() is None  # without an error: a run may begin again
    monkeypatch.undo()
    store.save(5, score=0.2, **parts(2.0))
    assert weight(store, store.newest()) == 2.0
    assert not (folder_of(store, 5) / UNFINISHED).exists()


def test_an_upload_over_one_with_an_average_leaves_no_average_behind(tmp_path) -> None:
    store = Checkpoints(folder=f"file://{tmp_path}/c")
    with_average = parts()
    with_average["learner"] |= {"average": copy.deepcopy(with_average["model"]), "num_averaged": 3}
    store.save(5, **with_average)
    assert "average" in store.load(store.newest(), nn.Linear(3, 2))["learner"]
    store.save(5, **parts())
    assert "average" not in store.load(store.newest(), nn.Linear(3, 2))["learner"]


@pytest.mark.parametrize("place", ["_remove", "_outlived"])
def test_what_cannot_be_removed_is_told_and_the_save_stands(store, monkeypatch, place) -> None:
    def refused(*args):
        raise PermissionError(13, "Permission denied")

    one = Checkpoints(folder=store.folder, keep=1)
    one.save(1, **parts())
    monkeypatch.setattr(Checkpoints, place, refused)
    for step in (8, 9):
        with pytest.warns(UserWarning, match=r"cannot be removed \(Permission denied\)") as told:
            assert one.save(step, **parts()) == f"checkpoint_{step:09d}"
        assert one.newest().step == step
    assert len({str(each.message) for each in told}) == 1  # so that a run is told once


def test_one_that_cannot_be_removed_holds_up_no_other(store, monkeypatch) -> None:
    for step in (1, 2, 3):
        Checkpoints(folder=store.folder, keep=3).save(step, **parts())
    real = Checkpoints._remove

    def refused(self, name):
        if name.endswith("1"):
            raise PermissionError(13, "Permission denied")
        real(self, name)

    monkeypatch.setattr(Checkpoints, "_remove", refused)
    with pytest.warns(UserWarning, match="cannot be removed"):
        Checkpoints(folder=store.folder, keep=1).save(4, **parts())
    assert [entry.step for entry in store.entries()] == [1, 4]


def test_all_is_on_the_disk_before_it_is_moved_and_the_move_before_the_save_ends(
    tmp_path, monkeypatch
) -> None:
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda h: (done.append(Path(os.readlink(f"/proc/self/fd/{h}")).name), fsync(h))
    )
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("move"), replace(*a)))
    Checkpoints(folder=str(tmp_path / "c")).save(1, **parts())
    assert done[:4] == sorted(["history.npz", "model.safetensors", "stream.json", "train.pt"])
    assert done[4:] == [MANIFEST, "new", "move", "c"]


# --- files that were edited ---------------------------------------------------------------------


def seal(folder):
    """Make the manifest fit the files, as whoever edits them on purpose would."""
    names = [file.name for file in folder.iterdir() if file.name != MANIFEST]
    digests = {
        n: [(folder / n).stat().st_size, checkpoints.manifest.digest(folder / n)] for n in names
    }
    rewrite(folder / MANIFEST, files=digests)


def edit_stream(change):
    def edit(folder):
        tree = json.loads((folder / "stream.json").read_text())
        change(tree["stream"])
        (folder / "stream.json").write_text(json.dumps(tree))

    return edit


def edit_history(change):
    def edit(folder):
        with np.load(folder / "history.npz") as arrays:
            kept = dict(arrays)
        change(kept)
        np.savez(folder / "history.npz", **kept)

    return edit


def edit_learner(change):
    def edit(folder):
        learner = torch.load(folder / "train.pt", weights_only=True)
        change(learner)
        torch.save(learner, folder / "train.pt")

    return edit


def recast(dtype, name="model.safetensors"):
    def edit(folder):
        kept = {key: tensor.to(dtype) for key, tensor in load_file(folder / name).items()}
        save_file(kept, folder / name, metadata={"format": "pt"})

    return edit


def momentum(learner, tensor):
    learner["optimizer"]["state"][0]["exp_avg"] = tensor


def put(tree, path, value):
    *above, last = path
    for key in above:
        tree = tree[key]
    tree[last] = value


def waits(**changes):
    return lambda stream: stream["cursor"]["waiting"]["4"].update(changes)


STREAM = {
    **{
        f"no {key}": (lambda stream, key=key: stream.pop(key), f"has no {key}")
        for key in ("loop", "cursor", "counters", "ledger", "outlooks")
    },
    "low": (lambda s: put(s, ["cursor", "low"], -5), r"cursor\.low is -5, must be a whole"),
    "low as float": (lambda s: put(s, ["cursor", "low"], 3.0), r"low is 3\.0"),
    "low as truth": (lambda s: put(s, ["cursor", "low"], True), "low is True"),
    "done": (lambda s: put(s, ["cursor", "done"], [1, None]), r"done\[1\] is None"),
    "a pool's name": (lambda s: put(s, ["cursor", "waiting", "x"], {}), "a key of .*'x'"),
    "a key that waits": (waits(more=1), "has more, of which nothing is known"),
    "rows that wait": (waits(num_rows=1), "arrays of num_rows entries"),
    "last": (lambda s: put(s, ["loop", "last"], {}), "last has no cost, num_backpropped, step"),
    "seconds": (lambda s: put(s, ["loop", "seconds"], "x"), r"loop\.seconds is 'x'"),
    "seconds, infinite": (lambda s: put(s, ["loop", "seconds"], 1e999), "seconds is inf"),
    "sums": (lambda s: put(s, ["counters", "sums"], []), "sums is .*at least 1"),
    "sums of three": (lambda s: put(s, ["counters", "sums"], [[1, 2, 3]]), "a list of 4"),
    "epochs": (lambda s: s["ledger"]["epochs"]["0"].pop("num_scored"), "has no num_scored"),
    "ring": (lambda s: put(s, ["ledger", "ring", "losses"], [1.0]), "flat array of float32"),
    "audits": (lambda s: put(s, ["ledger", "audits", "last"], [[1]]), "a list of 3"),
    "outlook": (lambda s: put(s, ["outlooks", "1", "columns"], {"loss": 3}), "must be an array"),
}
LEARNER = {
    **{
        f"no {key}": (lambda learner, key=key: learner.pop(key), f"has no {key}")
        for key in ("optimizer", "kind", "groups", "rngs")
    },
    "momentum of another shape": (
        lambda m: momentum(m, torch.zeros(7)),
        r"exp_avg is torch\.float32 \[7\]",
    ),
    "momentum in float64": (lambda m: momentum(m, torch.zeros(2, 3).double()), "torch.float64"),
    "momentum of another parameter": (lambda m: momentum(m, torch.zeros(2)), "shape and dtype"),
    "momentum as a number": (lambda m: momentum(m, 3.0), "exp_avg is 3.0"),
    "no random state": (lambda m: m["rngs"].clear(), "at least 1"),
    "short": (lambda m: put(m, ["rngs", 0, "torch"], torch.zeros(9).byte()), "torch's generator"),
    "float": (lambda m: put(m, ["rngs", 0, "torch"], torch.zeros(5056)), "torch's generator"),
    "python": (lambda m: put(m, ["rngs", 0, "python"], [3, [1, 2], None]), "Python's generator"),
    "numpy": (
        lambda m: put(m, ["rngs", 0, "numpy", 1], m["rngs"][0]["numpy"][1].double()),
        "numpy's generator",
    ),
    "an average that is not there": (lambda m: m.update(num_averaged=3), "num_averaged where"),
}
HISTORY = {
    "dtype": (lambda h: put(h, ["/history/id"], h["/history/id"].astype(np.float64)), "int64"),
    "rank": (lambda h: put(h, ["/history/loss"], h["/history/loss"][:, None]), "float32"),
    "half": (lambda h: put(h, ["/history/loss"], h["/history/loss"][:2]), "one length"),
}
EDITS = {
    **{f"stream: {n}": (edit_stream(c), "stream.json", m) for n, (c, m) in STREAM.items()},
    **{f"learner: {n}": (edit_learner(c), "train.pt", m) for n, (c, m) in LEARNER.items()},
    **{f"history: {n}": (edit_history(c), "history.npz", m) for n, (c, m) in HISTORY.items()},
    "a stray average": (
        lambda folder: shutil.copy(folder / "model.safetensors", folder / "ema.safetensors"),
        "train.pt",
        "num_averaged where there is an ema.safetensors",
    ),
    "deep": (lambda f: (f / "stream.json").write_text("[" * 100_000), "stream.json", "Recursion"),
    "no tree": (
        lambda f: (f / "stream.json").write_text('{"version": 1}'),
        "stream.json",
        "no history",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_file_is_refused_by_name_with_what_is_wrong(store, edit) -> None:
    store.save(5, **parts(1.0))
    change, file, wrong = EDITS[edit]
    change(folder_of(store, 5))
    seal(folder_of(store, 5))
    model, draws = nn.Linear(3, 2), torch.get_rng_state()
    with pytest.raises(RunDirectoryError, match=rf"(?s){file}: .*{wrong}.*Copy the run directory"):
        store.load(store.newest(), model)
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int8])
def test_weights_of_another_dtype_are_refused_not_cast(store, dtype) -> None:
    store.save(5, **parts(1.0))
    recast(dtype)(folder_of(store, 5))
    seal(folder_of(store, 5))
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"bias is \w+ \[2\] there and F32 \[2\] here"):
        store.load(store.newest(), model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_stray_average_that_the_manifest_does_not_name_is_damage(tmp_path) -> None:
    store = Checkpoints(folder=str(tmp_path))
    store.save(1, **parts())
    store.save(2, **parts())
    (tmp_path / "checkpoint_000000002" / "ema.safetensors").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"ema\.safetensors is there, which manifest\.json"):
        assert store.newest().step == 1


def test_what_an_older_release_left_out_is_read(store) -> None:
    old = parts(1.0)
    del old["stream"]["ledger"]["audits"]
    for waiting in old["stream"]["cursor"]["waiting"].values():
        del waiting["trained"]
    store.save(5, **old)
    assert weight(store, store.newest()) == 1.0


def test_an_optimizer_of_another_kind_may_keep_what_it_likes(store) -> None:
    """A momentum of low rank, say."""
    saved = parts(1.0)
    saved["learner"]["kind"] = "Mine"
    momentum(saved["learner"], torch.zeros(7))
    store.save(5, **saved)
    assert weight(store, store.newest()) == 1.0
