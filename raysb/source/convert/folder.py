"""Pictures below a folder, the class of each the first folder on its way: `cat/1.png`."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from raysb.errors import DataError
from raysb.source.convert.labels import Labels, by_name
from raysb.source.convert.pictures import (
    FOREIGN,
    MAX_BYTES,
    SUFFIXES,
    Checked,
    Picture,
    Seen,
    check_pictures,
    suffix_of,
)
from raysb.source.convert.settings import Convert, Problems, id_of

LABEL = "label"


class FolderReader:
    """A folder of pictures; without folders in it, pictures without labels.

    Args:
        folder: Where they lie.
        settings: `classes`.
        problems: Is told of what cannot be used.
    """

    def __init__(self, folder: Path, settings: Convert, problems: Problems) -> None:
        self._folder, self._problems = folder, problems
        self._names, self.num_bytes = _list(folder, problems)
        if not self._names:
            raise DataError(f"{folder}: no picture ({', '.join(SUFFIXES)}) in or below this folder")
        labels = [name.partition("/")[0] if "/" in name else None for name in self._names]
        self._labels = folder_labels(labels, settings.classes, str(folder))
        self._seen = Seen()

    def schema(self) -> pa.Schema:
        """Columns with their types."""
        return picture_schema(self._labels, self._seen)

    def tables(self) -> Iterator[pa.Table]:
        """All pictures in the order of their names."""
        pictures = (
            Picture(name, partial(read_picture, self._folder / name), row)
            for row, name in enumerate(self._names)
        )
        for some in check_pictures(pictures, self._problems, self._seen):
            yield picture_table(some, self._labels)


def folder_labels(
    labels: Sequence[str | None], given: Sequence[str] | None, where: str
) -> Labels | None:
    """Classes of pictures by the folders they lie in; None where no picture lies in one.

    Raises:
        DataError: Some lie in one and others do not.
    """
    known = [label for label in labels if label is not None]
    if not known:
        return None
    if len(known) < len(labels):
        raise DataError(
            f"{where}: {len(labels) - len(known)} of {len(labels)} pictures lie in no folder of a "
            "class, the others do. Move them into one, or away."
        )
    return by_name(known, given, where)


def picture_schema(labels: Labels | None, seen: Seen) -> pa.Schema:
    """Columns of pictures; `shape` tells a reader that all have one, and whether in colour."""
    shape = None if seen.shape is None else {"shape": str(seen.shape)}
    return pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("image", pa.binary(), metadata=shape),
            *([labels.field(LABEL)] if labels else []),
            pa.field("path", pa.string()),
        ]
    )


def picture_table(some: list[Checked], labels: Labels | None) -> pa.Table:
    """Rows of checked pictures."""
    columns = {
        "id": pa.array([id_of(each.name) for each in some], pa.int64()),
        "image": pa.array([each.data for each in some], pa.binary()),
        **({LABEL: labels.of(each.row for each in some)} if labels else {}),
        "path": pa.array([each.name for each in some], pa.string()),
    }
    return pa.table(columns)


def _list(folder: Path, problems: Problems) -> tuple[list[str], int]:
    """Names of the pictures below a folder, sorted, and their bytes."""
    names, total = [], 0
    for path, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in files:
            if file.startswith("."):
                continue
            suffix = suffix_of(file)
            if suffix not in SUFFIXES + FOREIGN:
                problems.pass_over(suffix)
                continue
            full = os.path.join(path, file)
            names.append(Path(full).relative_to(folder).as_posix())
            total += os.stat(full, follow_symlinks=True).st_size if os.path.exists(full) else 0
    return sorted(names), total


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def read_picture(path: Path) -> bytes:
    """The bytes of a file that may be a picture.

    Raises:
        DataError: It is far too large for one.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DataError(f"{size:,} bytes, more than {MAX_BYTES:,} for one picture")
    return path.read_bytes()
