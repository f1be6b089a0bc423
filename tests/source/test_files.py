import os
from pathlib import Path

import fsspec
import pytest
from pyarrow import fs

from raysb.source.files import find_files

NAMES = ["a/1.parquet", "a/2.parquet", "a/b/3.parquet", "c.parquet", "a/x.csv", "a/_m/4.parquet"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in [*NAMES, "a/.5.parquet", "odd[1].parquet"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("c.parquet", ["c.parquet"]),
        ("a", ["a/1.parquet", "a/2.parquet", "a/b/3.parquet"]),
        ("a/*.parquet", ["a/1.parquet", "a/2.parquet"]),
        ("a/[!1].parquet", ["a/2.parquet"]),
        ("?/?.parquet", ["a/1.parquet", "a/2.parquet"]),
        ("a/*/*.parquet", ["a/_m/4.parquet", "a/b/3.parquet"]),
        ("a/**/3.parquet", ["a/b/3.parquet"]),
        ("**/c.parquet", ["c.parquet"]),
        ("odd[1].parquet", ["odd[1].parquet"]),
    ],
)
def test_files_folders_and_globs_are_found(tree: Path, pattern: str, found: list[str]) -> None:
    for prefix in ("", "file://"):
        _, files = find_files(f"{prefix}{tree}/{pattern}")
        assert [os.path.relpath(file, tree) for file in files] == found


def test_several_paths_keep_their_order_and_name_each_file_once(tree: Path) -> None:
    _, files = find_files([tree / "c.parquet", tree / "a/2.parquet", tree / "a"])
    relative = [os.path.relpath(file, tree) for file in files]
    assert relative == ["c.parquet", "a/2.parquet", "a/1.parquet", "a/b/3.parquet"]


def test_relative_paths_become_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert find_files("c.parquet")[1] == [str(tree / "c.parquet")]


def test_other_file_systems_are_taken(tree: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/m.parquet", b"")
    _, files = find_files("bucket/*.parquet", filesystem=memory)
    assert [file.lstrip("/") for file in files] == ["bucket/m.parquet"]
    below = fs.SubTreeFileSystem(str(tree), fs.LocalFileSystem())
    assert find_files("a/*.parquet", filesystem=below)[1] == ["a/1.parquet", "a/2.parquet"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("d.parquet", "did you mean 'c.parquet'"),
        ("a/*.orc", "no file matches"),
        ("none/x.parquet", "no such file or folder"),
    ],
)
def test_what_is_not_there_is_named(tree: Path, pattern: str, words: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_files(str(tree / pattern))
    assert words in str(caught.value)
    assert pattern in str(caught.value)


def test_a_folder_without_parquet_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(FileNotFoundError, match=r"it holds x\.csv"):
        find_files(tmp_path)


def test_no_paths_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one path"):
        find_files([])
