"""Finding files by name, folder or glob on any file system that pyarrow knows."""

import fnmatch
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pyarrow import fs

from raysb.source.settings import nearest

Paths: TypeAlias = str | Path | Sequence[str | Path]

_WILDCARD = re.compile(r"[*?\[]")


def find_files(
    paths: Paths, *, suffix: str = ".parquet", filesystem: Any = None
) -> tuple[fs.FileSystem, list[str]]:
    """Turn files, folders, globs and URIs into a file system and the sorted files on it.

    A folder gives all files below it that end in `suffix`; names that begin with `_` or `.` are
    left out, as other readers of parquet folders do. `*` and `?` stop at `/`, `**` does not.

    Args:
        paths: One path or several, all on one file system.
        suffix: Ending of the files that a folder gives.
        filesystem: A `pyarrow.fs.FileSystem` or an fsspec one; None finds it from the first path.

    Returns:
        The file system, and absolute paths on it in the order given, sorted within each path.

    Raises:
        FileNotFoundError: A path matches nothing.
        ValueError: There are no paths.
    """
    names = [str(paths)] if isinstance(paths, str | Path) else [str(path) for path in paths]
    if not names:
        raise ValueError("find_files([]): at least one path is needed.")
    found: list[str] = []
    for name in names:
        filesystem, path = _resolve(name, filesystem)
        found += _expand(filesystem, path, name, suffix)
    return filesystem, list(dict.fromkeys(found))


def _resolve(name: str, filesystem: Any) -> tuple[fs.FileSystem, str]:
    """The file system of a path and the path on it."""
    if filesystem is not None:
        if not isinstance(filesystem, fs.FileSystem):
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
        if isinstance(filesystem, fs.LocalFileSystem):
            return filesystem, os.path.abspath(name.removeprefix("file://"))
        return filesystem, name.split("://", 1)[-1]
    if "://" in name and not name.startswith("file://"):
        found, path = fs.FileSystem.from_uri(name)
        return found, str(path)
    # Absolute, because readers run in processes with other working directories.
    return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(name.removeprefix("file://")))


def _expand(filesystem: fs.FileSystem, path: str, given: str, suffix: str) -> list[str]:
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.File:
        return [path]
    if kind == fs.FileType.Directory:
        below = _entries(filesystem, path, fs.FileType.File, recursive=True)
        files = [file for file in below if not _hidden(file[len(path) :])]
        chosen = [file for file in files if file.endswith(suffix)]
        if not chosen:
            others = ", ".join(posixpath.basename(file) for file in files[:5]) or "nothing"
            raise FileNotFoundError(f"{given}: no {suffix} file in this folder; it holds {others}.")
        return chosen
    if _WILDCARD.search(path):
        if matching := sorted(set(_glob(filesystem, "", path.split("/")))):
            return matching
        raise FileNotFoundError(f"{given}: no file matches ({path}).")
    folder, _, base_name = path.rpartition("/")
    beside = [posixpath.basename(file) for file in _entries(filesystem, folder, fs.FileType.File)]
    hint = f" In its folder {nearest(base_name, beside[:20])}." if beside else ""
    raise FileNotFoundError(f"{given}: no such file or folder ({path}).{hint}")


def _glob(filesystem: fs.FileSystem, base: str, parts: list[str]) -> list[str]:
    """Files below `base` that match the rest of a pattern; lists only the folders it must."""
    head, *rest = parts
    path = posixpath.join(base, head)
    if not _WILDCARD.search(head):
        if rest:
            return _glob(filesystem, path or "/", rest)
        return [path] if filesystem.get_file_info(path).type == fs.FileType.File else []
    if head == "**":
        inside = _entries(filesystem, base, fs.FileType.Directory, recursive=True)
        return [
            file for folder in (base, *inside) for file in _glob(filesystem, folder, rest or ["*"])
        ]
    # As in a shell, a wildcard at the front does not match a hidden name.
    matching = [
        entry
        for entry in _entries(filesystem, base, fs.FileType.Directory if rest else fs.FileType.File)
        if fnmatch.fnmatchcase(name := posixpath.basename(entry), head)
        and (head.startswith(".") or not name.startswith("."))
    ]
    if not rest:
        return matching
    return [file for entry in matching for file in _glob(filesystem, entry, rest)]


def _entries(
    filesystem: fs.FileSystem, folder: str, kind: fs.FileType, recursive: bool = False
) -> list[str]:
    selector = fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    return sorted(entry.path for entry in filesystem.get_file_info(selector) if entry.type == kind)


def _hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))
