"""Pictures in a TAR archive, read in place: nothing is extracted, so no name leads anywhere.

Labels, in this order: the text of `a.cls` beside `a.jpg`, as in WebDataset, a number or a name; the
first folder on the way of a picture, below those that all have in common.
"""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysb.errors import DataError
from raysb.source.convert.folder import folder_labels, picture_schema, picture_table
from raysb.source.convert.labels import Labels, by_name, by_number
from raysb.source.convert.pictures import (
    FOREIGN,
    MAX_BYTES,
    SUFFIXES,
    Picture,
    Seen,
    check_pictures,
    suffix_of,
)
from raysb.source.convert.settings import Convert, Problems

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_MAX_LABEL = 1_000  # bytes of a .cls


class TarReader:
    """An archive of pictures, plain or compressed; its headers are read twice.

    Args:
        path: The archive.
        settings: `classes`.
        problems: Is told of what cannot be used.

    Raises:
        DataError: It is no archive, is cut off, or holds no pictures.
    """

    def __init__(self, path: Path, settings: Convert, problems: Problems) -> None:
        self._path, self._problems = path, problems
        self._told: dict[str, str] = {}  # text of each .cls by the name it shares with a picture
        self._rows: dict[str, int] = {}  # position of each picture that has a label, or may do
        self.num_bytes = 0
        self._find()
        if self._told:
            self._rows = {name: row for row, name in enumerate(self._with_label(list(self._rows)))}
        if not self._rows:
            raise DataError(f"{path}: no picture ({', '.join(SUFFIXES)}) in this archive")
        self._labels = self._label(list(self._rows), settings)
        self._seen = Seen()

    def schema(self) -> pa.Schema:
        """Columns with their types."""
        return picture_schema(self._labels, self._seen)

    def tables(self) -> Iterator[pa.Table]:
        """All pictures in the order of the archive."""
        for some in check_pictures(self._pictures(), self._problems, self._seen):
            yield picture_table(some, self._labels)

    def _find(self) -> None:
        """Go through the headers once."""
        with _reading(self._path) as members:
            for archive, member in members:
                name, suffix = _clean(member.name), suffix_of(member.name)
                if not member.isfile() or _hidden(name):
                    continue
                if suffix == ".cls" and member.size <= _MAX_LABEL:
                    self._told[_key(name)] = _content(archive, member).decode().strip()
                elif suffix not in SUFFIXES + FOREIGN:
                    self._problems.pass_over(suffix)
                elif ".." in name.split("/"):
                    self._problems.add(member.name, "its name leads out of the archive")
                elif name in self._rows:
                    self._problems.add(name, "stands in the archive twice")
                else:
                    self._rows[name] = len(self._rows)
                    self.num_bytes += member.size

    def _with_label(self, names: list[str]) -> Iterator[str]:
        for name in names:
            if _key(name) in self._told:
                yield name
            else:
                self._problems.add(name, "has no .cls beside it, others have")

    def _label(self, names: list[str], settings: Convert) -> Labels | None:
        given, where = settings.classes, str(self._path)
        if not self._told:
            return folder_labels(_folders(names), given, where)
        texts = [self._told[_key(name)] for name in names]
        numbers = all(text.isdecimal() for text in texts)
        return (by_number if numbers else by_name)(texts, given, where)

    def _pictures(self) -> Iterator[Picture]:
        done: set[str] = set()
        with _reading(self._path) as members:
            for archive, member in members:
                name = _clean(member.name)
                if not member.isfile() or name not in self._rows or name in done:
                    continue
                done.add(name)
                # read now, in this thread: an archive has one position
                data = _content(archive, member) if member.size <= MAX_BYTES else b""
                yield Picture(name, partial(_given, data, member.size), self._rows[name])


@contextmanager
def _reading(path: Path) -> Iterator[Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]]:
    """The members of an archive, one after the other; none is remembered."""
    try:
        with _decompressed(path) as stream:
            bounded: Any = _Bounded(stream)
            with tarfile.open(fileobj=bounded, mode="r:") as archive:
                yield _members(archive)
    except DataError:
        raise
    except Exception as error:  # of tarfile, of the decompressors, of names that are no text
        raise DataError(
            f"{path}: the archive cannot be read to its end ({error}). Fetch or pack it again."
        ) from error


def _decompressed(path: Path) -> Any:
    """The archive as bytes, whatever its name says; opened here so that reads can be bounded."""
    with path.open("rb") as file:
        start = file.read(max(map(len, _COMPRESSED)))
    found = (opened for magic, opened in _COMPRESSED.items() if start.startswith(magic))
    return next(found, open)(path, "rb")


class _Bounded:
    """A file whose reads are of the size of a picture at most.

    `tarfile` reads as many bytes as a header says: a few of them would fill the memory.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int) -> bytes:
        if size > MAX_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        data: bytes = self._stream.read(size)
        return data


def _members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    while (member := archive.next()) is not None:
        yield archive, member
        vars(archive)["members"].clear()  # else a million headers take a gigabyte


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    data = b"" if stream is None else stream.read()
    if len(data) < member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return data


def _given(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise DataError(f"{size:,} bytes, more than {MAX_BYTES:,} for one picture")
    return data


def _clean(name: str) -> str:
    """A name as others would write it: `./a/b.png` is `a/b.png`."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _key(name: str) -> str:
    """What the files of a sample share: all up to the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _folders(names: list[str]) -> list[str | None]:
    """The first folder of each name, below those that all have in common."""
    parts = [name.split("/") for name in names]
    while all(len(each) > 2 for each in parts) and len({each[0] for each in parts}) == 1:
        parts = [each[1:] for each in parts]
    return [each[0] if len(each) > 1 else None for each in parts]
