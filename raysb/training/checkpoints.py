"""The checkpoints of a run: written whole or not at all, checked when read, the last k kept.

    checkpoint_000000150/   files of `checkpoint.save`, and at last
        manifest.json       version, step, score, and size and SHA-256 of each file

A folder without a manifest is no checkpoint: its writer died. On a local file system the folder is
written beside its place and moved there; on another one (`s3://`, `gs://`, ...) the manifest is
uploaded last. A checkpoint whose files are not what the manifest says is passed over with a
warning, and the one before it serves.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs
from torch import nn

from raysb.errors import RunDirectoryError
from raysb.training import checkpoint
from raysb.training.folder import Folder, Token

CHECKPOINT = "checkpoint_"  # a folder's name; report.directory, which loads no torch, repeats it
MANIFEST = "manifest.json"
BEFORE = ".before"  # of the same step, while a new one is put in its place
VERSION = 1
_KEYS = {"version", "step", "score", "files"}


class Entry(NamedTuple):
    """A checkpoint that was committed."""

    step: int
    name: str
    score: float | None = None  # what is evaluated; less is better


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a run's checkpoints lie.

    Args:
        folder: A local folder, or a URI that `pyarrow.fs` knows.
        keep: Newest checkpoints that are kept, at least 1; the one with the least score is too.
        token: What the driver has left in the folder, see `shared`; `None`: nothing.
    """

    folder: str
    keep: int = 2
    token: Token | None = None

    @contextmanager
    def shared(self) -> Iterator["Checkpoints"]:
        """The same, for other machines too: one on which the folder is another one is refused.

        Raises:
            OSError: The folder cannot be written.
        """
        token = Token.leave(self.folder)
        try:
            yield replace(self, token=token)
        finally:
            token.remove()

    def save(self, step: int, *, score: float | None = None, **parts: Any) -> str:
        """Write and commit a checkpoint; returns its name. One of the same step gives way.

        Args:
            step: Optimizer steps done.
            score: What was evaluated at this very step, if anything; less is better.
            **parts: See `checkpoint.save`.

        Raises:
            OSError: It cannot be written; those before it are as they were.
        """
        name = f"{CHECKPOINT}{step:09d}"
        scratch = self._scratch(name)
        try:
            new = scratch / "new"
            checkpoint.save(new, **parts)
            manifest = {"version": VERSION, "step": step, "score": score, "files": _digests(new)}
            _write(new / MANIFEST, json.dumps(manifest, indent=1))
            self._commit(new, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._prune(step)
        return name

    def entries(self) -> list[Entry]:
        """All committed checkpoints, by step."""
        found = []
        for name in self._names():
            manifest = self._manifest(name)
            if manifest is not None:
                found.append(Entry(manifest["step"], name, manifest["score"]))
        return sorted(found, key=lambda entry: (entry.step, not entry.name.endswith(BEFORE)))

    def newest(self) -> Entry | None:
        """The newest checkpoint whose files are all there, as long as they were; `None`: none.

        Raises:
            RunDirectoryError: This machine has another folder of that name: a run that found no
                checkpoint there would begin anew without a word.
        """
        if self.token is not None and (why := self.token.unseen()) is not None:
            raise RunDirectoryError(not_shared(self.folder, {platform.node(): why}))
        for entry in reversed(self.entries()):
            wrong = self._differs(entry)
            if wrong is None:
                return entry
            warnings.warn(
                f"{self.folder}/{entry.name} is damaged ({wrong}); the checkpoint before it is "
                "used. Its disk, or what copied it, has lost data",
                stacklevel=2,
            )
        return None

    def best(self) -> Entry | None:
        """The checkpoint with the least score, the newest of equal ones; damaged ones are none."""
        return _best([entry for entry in self.entries() if self._differs(entry) is None])

    def load(self, entry: Entry, model: nn.Module) -> dict[str, Any]:
        """Weights into the model; `learner`, `stream` and `history` are returned.

        Raises:
            RunDirectoryError: A file is not the one that was written.
            ModelError: The model is another one.
        """
        with self.local(entry) as folder:
            return checkpoint.load(folder, model=model)

    def load_learner(self, entry: Entry) -> dict[str, Any]:
        """Optimizer and random states alone."""
        with self.local(entry) as folder:
            return checkpoint.load_learner(folder)

    def load_stream(self, entry: Entry) -> dict[str, Any]:
        """`stream` and `history` alone, for which no model is needed."""
        with self.local(entry) as folder:
            return checkpoint.load_stream(folder)

    def newest_history(self) -> Mapping[str, Any] | None:
        """What the newest checkpoint knows of each sample; `None` where there is none."""
        entry = self.newest()
        return None if entry is None else self.load_stream(entry)["history"]

    @contextmanager
    def local(self, entry: Entry) -> Iterator[Path]:
        """A local folder with the files of a checkpoint, each as it was written.

        Raises:
            RunDirectoryError: One is not.
        """
        if self._where.is_local:
            folder = Path(self._where.path) / entry.name
            _verify(folder)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="raysb-") as scratch:
            fs.copy_files(
                self._where.join(entry.name), scratch, source_filesystem=self._where.filesystem
            )
            _verify(Path(scratch))
            yield Path(scratch)

    # --- the file system -------------------------------------------------------------------------

    @property
    def _where(self) -> Folder:
        return Folder(self.folder)

    def _scratch(self, name: str) -> Path:
        """A folder to write into: beside the place where a move can then bring it, if possible."""
        if not self._where.is_local:
            return Path(tempfile.mkdtemp(prefix="raysb-"))
        Path(self._where.path).mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self._where.path))

    def _commit(self, new: Path, name: str) -> None:
        if self._where.is_local:
            target = Path(self._where.path) / name
            if target.exists():  # set aside under a name that is a checkpoint's too
                os.replace(target, target.with_name(f"{name}{BEFORE}"))
            os.replace(new, target)
            _sync(target.parent)
            shutil.rmtree(target.with_name(f"{name}{BEFORE}"), ignore_errors=True)
            return
        files = sorted(file.name for file in new.iterdir() if file.name != MANIFEST)
        filesystem = self._where.filesystem
        if self._manifest(name) is not None:
            filesystem.delete_file(self._where.join(name, MANIFEST))  # half of it is no checkpoint
        filesystem.create_dir(self._where.join(name))
        for file in [*files, MANIFEST]:  # which makes it a checkpoint
            fs.copy_files(
                str(new / file), self._where.join(name, file), destination_filesystem=filesystem
            )

    def _names(self) -> list[str]:
        selector = fs.FileSelector(self._where.path, allow_not_found=True)
        found = self._where.filesystem.get_file_info(selector)
        return [
            info.base_name
            for info in found
            if info.type == fs.FileType.Directory and info.base_name.startswith(CHECKPOINT)
        ]

    def _manifest(self, name: str) -> dict[str, Any] | None:
        """`None` where the writer died before it was there, or where it cannot be read."""
        try:
            with self._where.filesystem.open_input_stream(self._where.join(name, MANIFEST)) as file:
                manifest: dict[str, Any] = json.loads(file.read())
        except (OSError, ValueError):
            return None
        whole = isinstance(manifest, dict) and {"version", "step", "score", "files"} <= set(
            manifest
        )
        return manifest if whole else None

    def _differs(self, entry: Entry) -> str | None:
        """What is missing or of another size; a digest is compared when files are read."""
        manifest = self._manifest(entry.name)
        if manifest is None or manifest["version"] != VERSION:
            return None  # `local` says what is wrong
        for name, (size, digest) in manifest["files"].items():
            info = self._where.filesystem.get_file_info(self._where.join(entry.name, name))
            if info.type != fs.FileType.File or info.size != size:
                return f"{name} has {info.size} bytes of {size}"
            if (
                self._where.is_local
                and _digest(Path(self._where.path) / entry.name / name) != digest
            ):
                return f"{name} has other content"
        return None

    def _prune(self, step: int) -> None:
        """Keep the last k up to this step and the best; later ones are of a past that is undone."""
        entries = self.entries()
        best = _best(entries)
        kept = [entry for entry in entries if entry.step <= step][-self.keep :]
        for entry in entries:
            if entry not in kept and entry != best:
                self._remove(entry.name)

    def _remove(self, name: str) -> None:
        """Its manifest first: half a checkpoint is none."""
        self._where.filesystem.delete_file(self._where.join(name, MANIFEST))
        self._where.filesystem.delete_dir(self._where.join(name))


def not_shared(folder: str, machines: Mapping[str, str]) -> str:
    """What to say of machines on which a run's folder is another one.

    Args:
        folder: Of the checkpoints.
        machines: What is wrong there, by name.
    """
    return (
        f"the checkpoints' folder {folder} must be the same on every machine with a train worker "
        f"or a history shard, and is not ({listed(machines)}). After a fault the run would begin "
        "anew there, without the checkpoint that another machine has written. Give "
        "--run.checkpoints a folder on a shared disk or a URI such as s3://bucket/run, or let "
        "train.resources name machines that share it (history.num_shards=1 lies beside the driver)"
    )


def listed(machines: Mapping[str, str]) -> str:
    """What is wrong on which machine, in one line."""
    return "; ".join(f"{name}: {why}" for name, why in sorted(machines.items()))


def _best(entries: list[Entry]) -> Entry | None:
    scored = [entry for entry in entries if entry.score is not None]
    return min(reversed(scored), key=lambda entry: entry.score or 0.0, default=None)


def _verify(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest["version"] != VERSION:
        raise RunDirectoryError(
            f"{folder} has version {manifest['version']}, this raysb reads {VERSION}: resume with "
            "the release that wrote it"
        )
    for name, (size, digest) in manifest["files"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size or _digest(file) != digest:
            raise RunDirectoryError(
                f"{file} is not as it was written: nothing is loaded from a damaged checkpoint. "
                "Remove its folder to use the one before"
            )


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file, which is on its disk then."""
    found = {}
    for file in sorted(folder.iterdir()):
        _sync(file)
        found[file.name] = (file.stat().st_size, _digest(file))
    return found


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
