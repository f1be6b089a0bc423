"""A folder on a disk or in a store, and how a process sees that it is another one's too."""

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from pyarrow import fs

from raysb.errors import RunDirectoryError

SHARED = ".raysb-shared"  # a token's name begins so


@dataclass(frozen=True)
class Folder:
    """A local folder, or one on what `pyarrow.fs` knows by its URI.

    Args:
        name: A path, or a URI.
    """

    name: str

    @property
    def is_local(self) -> bool:
        """Whether it is named by a path."""
        return "://" not in self.name

    @property
    def filesystem(self) -> fs.FileSystem:
        """Where it lies."""
        return fs.LocalFileSystem() if self.is_local else fs.FileSystem.from_uri(self.name)[0]

    @property
    def path(self) -> str:
        """On its file system."""
        if self.is_local:
            return os.path.abspath(self.name)
        return str(fs.FileSystem.from_uri(self.name)[1])

    def join(self, *names: str) -> str:
        """A path in it, on its file system."""
        return "/".join([self.path.rstrip("/"), *names])

    def nearest(self) -> "Folder":
        """The folder, or the nearest one above it that is there; of a store, itself."""
        if not self.is_local:
            return self
        path = self.path
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        return Folder(path)


class Token(NamedTuple):
    """An empty file of a name of its own, by which a process knows another one's folder."""

    folder: str
    name: str

    @classmethod
    def leave(cls, folder: str) -> "Token":
        """Write one into a folder, which is made if it is missing.

        Raises:
            OSError: It cannot be written.
        """
        token, where = cls(folder, f"{SHARED}-{secrets.token_hex(8)}"), Folder(folder)
        where.filesystem.create_dir(where.path)
        with where.filesystem.open_output_stream(where.join(token.name)):
            return token

    def unseen(self) -> str | None:
        """Why this process has another folder of that name; `None`: it sees the same one."""
        where = Folder(self.folder)
        try:
            there = where.filesystem.get_file_info([where.path, where.join(self.name)])
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        if there[1].type == fs.FileType.File:
            return None
        missing = there[0].type == fs.FileType.NotFound
        return "it is not there" if missing else "another folder has this name there"

    def remove(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            where = Folder(self.folder)
            where.filesystem.delete_file(where.join(self.name))


def leave_near(folder: str) -> Token:
    """Leave a token in a folder for checkpoints, or in the nearest one above it that is there.

    Raises:
        RunDirectoryError: Nothing can be written there.
    """
    try:
        return Token.leave(Folder(folder).nearest().name)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"run.checkpoints={folder!r}: nothing can be written there ({error}), so that the run "
            "would have no checkpoint to go on from. Name a folder or a URI that you may write to "
            "with --run.checkpoints"
        ) from None
