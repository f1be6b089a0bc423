"""The checkpoints of a run: written whole or not at all, checked when read, the last k kept.

    checkpoint_000000150/   files of `checkpoint.save`, and at last
        manifest.json       version, step, score, and size and SHA-256 of each file

On a local file system the folder is written beside its place and moved there; on another one
(`s3://`, `gs://`, ...) the manifest is uploaded last, and a file `unfinished` lies in the folder
until then. A checkpoint without a manifest that can be read, or whose files are not what it says,
is passed over with a warning, and the one before it serves. Where none serves that is an error: a
run that has checkpoints never begins anew without a word. A run has one writer, so that what a
dead one left half written or half removed is cleared away by the next save.
"""

import json
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs
from torch import nn

from raysb.errors import RunDirectoryError
from raysb.training import checkpoint, manifest
from raysb.training.folder import Folder, Token
from raysb.training.manifest import MANIFEST, VERSION, Manifest
from raysb.training.saved_state import HISTORY, STREAM, check_file, check_learner
from raysb.training.snapshot import NewestHistory

CHECKPOINT = "checkpoint_"  # a folder's name; report.directory, which loads no torch, repeats it
BEFORE = ".before"  # of the same step, while a new one is put in its place
UNFINISHED = "unfinished"  # a file, on other file systems: being uploaded, or its writer died
_NAME = re.compile(rf"{CHECKPOINT}(\d{{9,}})({re.escape(BEFORE)})?")
_SCRATCH = re.compile(rf"\.{CHECKPOINT}\d{{9,}}-.+")


class Entry(NamedTuple):
    """A checkpoint that was committed."""

    step: int
    name: str
    score: float | None = None  # what is evaluated; less is better


class Damage(NamedTuple):
    """Why a folder that is named as a checkpoint is none."""

    what: str
    unfinished: bool = False  # it never was one: its writer died
    for_good: bool = True  # else a disk or a network has failed, and may not the next time


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
        self._sweep()
        scratch = self._scratch(name)
        try:
            new = scratch / "new"
            checkpoint.save(new, **parts)
            said = {"version": VERSION, "step": step, "score": score, "files": _digests(new)}
            (new / MANIFEST).write_text(json.dumps(said, indent=1))
            _sync(new / MANIFEST, new)
            self._commit(new, name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._prune(step)
        return name

    def entries(self) -> list[Entry]:
        """All committed checkpoints, by step; of two of one step that which was written last."""
        found: dict[int, Entry] = {}
        for name in self._names():
            read = self._manifest(name)
            if isinstance(read, Manifest):
                found[read.step] = Entry(read.step, name, read.score)
        return list(found.values())

    def newest(self) -> Entry | None:
        """The newest checkpoint whose files are all there, as they were; `None`: none was written.

        Raises:
            RunDirectoryError: There are some, and all are damaged. Or this machine has another
                folder of that name. A run would begin anew there without a word.
        """
        if self.token is not None and (why := self.token.unseen()) is not None:
            raise RunDirectoryError(not_shared(self.folder, {platform.node(): why}))
        damaged = []
        for name in reversed(self._names()):
            found = self._checked(name)
            if isinstance(found, Manifest):
                return Entry(found.step, name, found.score)
            if not found.unfinished:
                damaged.append(f"{name}: {found.what}")
                warnings.warn(
                    f"{self.folder}/{name} is damaged ({found.what}); the checkpoint before it is "
                    "used. Its disk, or what copied or cleared it, has lost data",
                    stacklevel=2,
                )
        if damaged:
            raise RunDirectoryError(
                f"{self.folder} holds checkpoints, of which none can be used ({'; '.join(damaged)})"
                ": a run would begin anew at step 0 in their place. Copy the folder again from "
                "where it is whole; or, to begin anew, move these folders away"
            )
        return None

    def best(self) -> Entry | None:
        """The checkpoint with the least score, the newest of equal ones; damaged ones are none."""
        whole = [e for e in self.entries() if isinstance(self._checked(e.name), Manifest)]
        return _best(whole)

    def load(self, entry: Entry, model: nn.Module) -> dict[str, Any]:
        """Weights into the model; `learner`, `stream` and `history` are returned.

        Raises:
            RunDirectoryError: A file is not the one that was written, or holds something else.
            ModelError: The model is another one.
        """
        with self.local(entry) as folder:
            state = checkpoint.load(folder, model=model)
        check_learner(self._file(entry, checkpoint.LEARNER), state["learner"], model)
        return self._sound(entry, state)

    def load_learner(self, entry: Entry) -> dict[str, Any]:
        """Optimizer and random states alone.

        Raises:
            RunDirectoryError: A file is not the one that was written, or holds something else.
        """
        with self.local(entry) as folder:
            learner = checkpoint.load_learner(folder)
        check_learner(self._file(entry, checkpoint.LEARNER), learner)
        return learner

    def load_stream(self, entry: Entry) -> dict[str, Any]:
        """`stream` and `history` alone, for which no model is needed.

        Raises:
            RunDirectoryError: A file is not the one that was written, or holds something else.
        """
        with self.local(entry) as folder:
            return self._sound(entry, checkpoint.load_stream(folder))

    @property
    def newest_history(self) -> NewestHistory:
        """Called, it gives what the newest checkpoint knows of each sample, or `None`."""
        return NewestHistory(folder=self.folder, token=self.token)

    @contextmanager
    def local(self, entry: Entry) -> Iterator[Path]:
        """A local folder with the files of a checkpoint, each as it was written.

        Raises:
            RunDirectoryError: One is not.
        """
        if self._where.is_local:
            folder = Path(self._where.path) / entry.name
            manifest.verify(folder)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="raysb-") as scratch:
            fs.copy_files(
                self._where.join(entry.name), scratch, source_filesystem=self._where.filesystem
            )
            manifest.verify(Path(scratch))
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
            self._move(new, Path(self._where.path) / name)
            return
        files = sorted(file.name for file in new.iterdir() if file.name != MANIFEST)
        filesystem = self._where.filesystem
        filesystem.create_dir(self._where.join(name))
        with filesystem.open_output_stream(self._where.join(name, UNFINISHED)):
            pass
        # half of one is no checkpoint, and the average of one before is none of this one
        for stale in (MANIFEST, *manifest.OPTIONAL):
            with suppress(FileNotFoundError):
                filesystem.delete_file(self._where.join(name, stale))
        for file in [*files, MANIFEST]:  # which makes it a checkpoint
            fs.copy_files(
                str(new / file), self._where.join(name, file), destination_filesystem=filesystem
            )
        with suppress(OSError):  # nobody looks at it where there is a manifest
            filesystem.delete_file(self._where.join(name, UNFINISHED))

    def _move(self, new: Path, target: Path) -> None:
        before = target.with_name(f"{target.name}{BEFORE}")
        if target.exists():  # set aside under a name that is a checkpoint's too
            shutil.rmtree(before, ignore_errors=True)  # of a writer that died below
            os.replace(target, before)
        os.replace(new, target)
        _sync(target.parent)
        shutil.rmtree(before, ignore_errors=True)

    def _names(self) -> list[str]:
        """Folders that are named as checkpoints, by step; one that was set aside comes first."""
        selector = fs.FileSelector(self._where.path, allow_not_found=True)
        found = {
            info.base_name: match
            for info in self._where.filesystem.get_file_info(selector)
            if info.type == fs.FileType.Directory and (match := _NAME.fullmatch(info.base_name))
        }
        return sorted(found, key=lambda name: (int(found[name][1]), found[name][2] is None))

    def _manifest(self, name: str) -> Manifest | Damage:
        """What a checkpoint says of itself, or why it cannot."""
        try:
            with self._where.filesystem.open_input_stream(self._where.join(name, MANIFEST)) as file:
                said = manifest.parse(file.read(manifest.MOST_BYTES))
        except FileNotFoundError:
            if self._is_file(name, UNFINISHED):
                return Damage("it was not uploaded to its end", unfinished=True)
            return Damage(f"it has no {MANIFEST}: it was removed, by hand or half way")
        except OSError as error:
            return Damage(f"{MANIFEST} cannot be read: {error}", for_good=False)
        except ValueError as error:
            return Damage(str(error))
        if f"{CHECKPOINT}{said.step:09d}" != name.removesuffix(BEFORE):
            return Damage(f"{MANIFEST} is that of step {said.step}")
        return said

    def _checked(self, name: str) -> Manifest | Damage:
        """The same, and whether the files are there; what is not local is digested when loaded."""
        said = self._manifest(name)
        if isinstance(said, Damage) or said.version != VERSION:
            return said  # `local` says what is wrong with another version
        if self._where.is_local:
            wrong = manifest.differs(Path(self._where.path) / name, said)
            return said if wrong is None else Damage(wrong)
        for file, (size, _) in said.files.items():
            info = self._where.filesystem.get_file_info(self._where.join(name, file))
            if info.type != fs.FileType.File or info.size != size:
                return Damage(f"{file} has {info.size} bytes of {size}")
        return said

    def _is_file(self, *names: str) -> bool:
        info = self._where.filesystem.get_file_info(self._where.join(*names))
        return bool(info.type == fs.FileType.File)

    def _file(self, entry: Entry, file: str) -> str:
        return f"{self.folder}/{entry.name}/{file}"

    def _sound(self, entry: Entry, state: dict[str, Any]) -> dict[str, Any]:
        check_file(self._file(entry, checkpoint.STREAM), STREAM, "stream", state["stream"])
        check_file(self._file(entry, checkpoint.HISTORY), HISTORY, "history", state["history"])
        return state

    # --- what is kept no longer ------------------------------------------------------------------

    def _sweep(self) -> None:
        """Clear away what a dead writer was writing: a run has one, and that is about to begin."""
        if self._where.is_local and (folder := Path(self._where.path)).is_dir():
            for path in folder.iterdir():
                if _SCRATCH.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)

    def _prune(self, step: int) -> None:
        """Nothing here makes a save fail: its checkpoint is committed."""
        with self._told():
            for name in self._outlived(step):
                with self._told():
                    self._remove(name)

    def _outlived(self, step: int) -> list[str]:
        """All but the last k up to this step and the best; later ones are of an undone past."""
        entries = self.entries()
        kept = {entry.name for entry in [e for e in entries if e.step <= step][-self.keep :]}
        if (best := _best(entries)) is not None:
            kept.add(best.name)
        return [name for name in self._names() if name not in kept and self._is_known(name)]

    def _is_known(self, name: str) -> bool:
        """Whether more than a failing disk or network speaks for what a folder is."""
        found = self._manifest(name)
        return isinstance(found, Manifest) or found.for_good

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            warnings.warn(
                f"{self.folder}: checkpoints that are kept no longer cannot be removed "
                f"({error.strerror or type(error).__name__}) and go on taking room; see who may "
                "write there. The next save tries again",
                stacklevel=2,
            )

    def _remove(self, name: str) -> None:
        """Its manifest first: half a checkpoint is none."""
        with suppress(FileNotFoundError):
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
    scored = [e for e in entries if e.score is not None and e.score == e.score]  # NaN is no best
    return min(reversed(scored), key=lambda entry: entry.score or 0.0, default=None)


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file, which is on its disk then."""
    found = {}
    for file in sorted(folder.iterdir()):
        _sync(file)
        found[file.name] = (file.stat().st_size, manifest.digest(file))
    return found


def _sync(*paths: Path) -> None:
    """Wait until files, or the names in folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
