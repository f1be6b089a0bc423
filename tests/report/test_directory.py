"""The run directory: claimed without a trace, created once."""

import os
import pickle
from pathlib import Path

import pytest

from raysb.errors import RunDirectoryError
from raysb.report.directory import RunDirectory

OWN_FILES = ["config.toml", "run.log", "metrics.jsonl", "nonfinite.json", "model.safetensors"]


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everything() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_claiming_writes_nothing_and_creating_makes_the_folders() -> None:
    run = RunDirectory.claim("a/b/c", model="cnn")
    assert everything() == []
    assert run.create() == run
    assert everything() == ["a", "a/b", "a/b/c"]


def test_the_default_is_the_next_free_number_of_the_model() -> None:
    for n in (1, 2, 3):
        assert RunDirectory.claim(None, model="cnn").create().path == Path(f"runs/cnn-{n}")
    assert RunDirectory.claim(None, model="mlp").path == Path("runs/mlp-1")


def test_an_import_path_makes_the_name_of_one_folder() -> None:
    path = RunDirectory.claim(None, model="my.package:build/../it").path
    assert path == Path("runs/my.package-build-..-it-1")
    assert RunDirectory.claim(None, model="..").path == Path("runs/run-1")


def test_two_runs_that_claim_the_same_number_get_two_folders() -> None:
    first, second = (RunDirectory.claim(None, model="cnn") for _ in range(2))
    assert first.path == second.path
    assert first.create().path == Path("runs/cnn-1")
    assert second.create().path == Path("runs/cnn-2")


def test_files_lie_inside() -> None:
    run = RunDirectory(Path("r"))
    files = [run.config, run.log, run.metrics, run.nonfinite, run.model]
    assert files == [Path("r") / name for name in OWN_FILES]


@pytest.mark.parametrize("name", [*OWN_FILES, "checkpoint_000000007"])
def test_a_folder_with_any_file_of_a_run_is_refused_untouched(name: str) -> None:
    Path("taken").mkdir()
    Path("taken", name).write_text("x")
    before = everything()
    with pytest.raises(RunDirectoryError, match=f"already holds a run \\({name}\\).*--run.dir"):
        RunDirectory.claim("taken", model="cnn")
    assert everything() == before


def test_a_folder_with_other_files_may_be_used() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("x")
    RunDirectory.claim("mine", model="cnn").create()
    assert everything() == ["mine", "mine/notes.txt"]


def test_a_run_that_appears_between_claim_and_create_is_refused() -> None:
    run = RunDirectory.claim("r", model="cnn")
    Path("r").mkdir()
    run.metrics.touch()
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        run.create()


@pytest.mark.parametrize("path", ["file", "file/inside", "file/deep/inside"])
def test_a_file_in_the_way_is_named(path: str) -> None:
    Path("file").touch()
    with pytest.raises(RunDirectoryError, match=r"file is not a folder.*--run\.dir"):
        RunDirectory.claim(path, model="cnn")
    assert everything() == ["file"]


def test_a_dangling_link_in_the_way_is_named() -> None:
    os.symlink("nowhere", "link")
    with pytest.raises(RunDirectoryError, match="link is not a folder"):
        RunDirectory.claim("link/run", model="cnn")


def test_a_uri_is_refused() -> None:
    with pytest.raises(RunDirectoryError, match="must be a local folder"):
        RunDirectory.claim("s3://bucket/run", model="cnn")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused() -> None:
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(RunDirectoryError, match=r"no permission to write into .*--run\.dir"):
        RunDirectory.claim("locked/run", model="cnn")


def test_the_answer_of_the_system_on_permissions_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, whom no mode of a folder keeps out, but a read-only file system does."""
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(RunDirectoryError, match=r"no permission to write into .*--run\.dir"):
        RunDirectory.claim("a/b", model="cnn")
    assert asked == [(Path().absolute(), os.W_OK | os.X_OK)]


def test_a_failed_creation_removes_what_it_made() -> None:
    """The name of the last folder is longer than a file system takes."""
    run = RunDirectory(Path("a/b") / ("x" * 300))
    with pytest.raises(RunDirectoryError, match=r"cannot write .*: File name too long"):
        run.create()
    assert everything() == []


def test_a_run_directory_can_be_sent_to_other_processes() -> None:
    run = RunDirectory(Path("r"))
    assert pickle.loads(pickle.dumps(run)) == run
