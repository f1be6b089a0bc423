"""Rows of a CSV with a header: typed columns, labels as numbers, paths as pictures.

A column is of integers, floats, booleans or text, the first of these that fits all of its values;
an empty cell is a missing value.
"""

import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from raysb.errors import DataError
from raysb.schema import ID
from raysb.source.convert.folder import read_picture
from raysb.source.convert.labels import Labels, by_name
from raysb.source.convert.pictures import SUFFIXES, Picture, Seen, check_pictures
from raysb.source.convert.settings import Convert, Problems, id_of
from raysb.source.settings import nearest

CSV_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
FEATURES, IMAGE, PATH, LABEL = "features", "image", "path", "label"

_KINDS = (pa.int64(), pa.float64(), pa.bool_(), pa.string())
_BLOCK = 8 << 20  # bytes read at once
_ROW = "__row__"
_PICTURE = rf"(?i)\.({'|'.join(suffix[1:] for suffix in SUFFIXES)})$"


class CsvReader:
    """A CSV with a header; it is read twice, first to know the types.

    Args:
        path: The CSV; `.tsv` is separated by tabs.
        settings: Which column is what.
        problems: Is told of rows that cannot be used.

    Raises:
        DataError: No header, a column that is not there, or text that is no class.
    """

    def __init__(self, path: Path, settings: Convert, problems: Problems) -> None:
        self._path, self._settings, self._problems = path, settings, problems
        self.num_bytes = path.stat().st_size
        self._names = _header(path)
        self._image = self._known(settings.image_column, "--image-column")
        self._label = self._known(settings.label_column, "--label-column") or (
            LABEL if LABEL in self._names else None
        )
        self._kinds, self._texts = self._scan()
        self._features = self._choose_features()
        self._labels = self._number_labels()
        self._seen = Seen()
        self._schema = pa.schema([])

    def schema(self) -> pa.Schema:
        """Columns with their types."""
        schema = self._schema
        if self._image is not None and self._seen.shape is not None:
            at = schema.get_field_index(IMAGE)
            image = schema.field(at).with_metadata({"shape": str(self._seen.shape)})
            schema = schema.set(at, image)
        if self._labels is not None and self._label is not None:
            at = schema.get_field_index(self._label)
            schema = schema.set(at, self._labels.field(self._label))
        return schema

    def tables(self) -> Iterator[pa.Table]:
        """All rows in the order of the file."""
        row = 0
        for text in _blocks(self._path, self._names, self._problems):
            numbered = text.append_column(_ROW, pa.array(range(row + 1, row + 1 + len(text))))
            row += len(text)
            for table in self._with_pictures(self._complete(numbered)):
                self._schema = table.schema
                yield table

    def _known(self, name: str | None, option: str) -> str | None:
        if name is not None and name not in self._names:
            raise DataError(f"{option} {name}: {self._path} has none; {nearest(name, self._names)}")
        return name

    def _scan(self) -> tuple[dict[str, pa.DataType], set[str]]:
        """The type of each column, and the different texts of the label."""
        left = {name: list(_KINDS) for name in self._names}
        texts: set[str] = set()
        pictures = [name for name in self._names if name != self._label]
        for text in _blocks(self._path, self._names, Problems("skip")):
            for name in self._names:
                while not _fits(text[name], left[name][0]):
                    left[name].pop(0)
            if self._label is not None:
                texts |= set(text[self._label].drop_null().unique().to_pylist())
            if self._image is not None:
                self.num_bytes += sum(self._size(p) for p in text[self._image].to_pylist())
            pictures = [name for name in pictures if _may_name_pictures(text[name])]
        kinds = {name: kinds[0] for name, kinds in left.items()}
        if self._image is None:
            self._warn_of_pictures([name for name in pictures if kinds[name] == pa.string()])
        return kinds, texts

    def _warn_of_pictures(self, names: list[str]) -> None:
        for name in names:
            self._problems.warnings.append(
                f"the column {name!r} holds names of pictures and stays text; --image-column "
                f"{shlex.quote(name)} reads the pictures"
            )

    def _size(self, name: str | None) -> int:
        path = None if name is None else self._inside(name)
        return path.stat().st_size if path is not None and path.exists() else 0

    def _inside(self, name: str) -> Path | None:
        """The file behind a cell; None where it leads out of the folder of the CSV."""
        pure = PurePosixPath(name)
        return None if pure.is_absolute() or ".." in pure.parts else self._path.parent / pure

    def _choose_features(self) -> list[str]:
        """The columns to join, in the order given, else in that of the file."""
        names = list(self._settings.features)
        if names == ["all"]:
            others = (ID, self._label, self._image)
            numeric = (pa.int64(), pa.float64())
            names = [n for n in self._names if self._kinds[n] in numeric and n not in others]
            if names and self._label is None:
                self._problems.warnings.append(
                    f"--features all joins every column of numbers ({', '.join(names)}), and none "
                    "is left as the target; --label-column NAME keeps it apart"
                )
        for name in names:
            self._known(name, "--features")
            if self._kinds[name] == pa.string():
                raise DataError(
                    f"--features {name}: the column holds text, which is no number. Leave it out, "
                    "or correct the cells that are none."
                )
        return names

    def _number_labels(self) -> Labels | None:
        """Numbers for labels of text; None where labels are numbers already, or there are none."""
        if self._label is None or self._kinds[self._label] in (pa.int64(), pa.float64()):
            return None
        return by_name(
            sorted(self._texts), self._settings.classes, f"{self._path}, {self._label!r}"
        )

    def _complete(self, text: pa.Table) -> pa.Table:
        """The rows that have all values that they need."""
        needed = [self._label, self._image, *self._features, ID if ID in self._names else None]
        for name in dict.fromkeys(needed):
            if name is None or not text[name].null_count:
                continue
            missing = pc.is_null(text[name])
            for row in text.filter(missing)[_ROW].to_pylist():
                self._problems.add(f"{self._path} row {row}", f"no value in the column {name!r}")
            text = text.filter(pc.invert(missing))
        return text

    def _with_pictures(self, text: pa.Table) -> Iterator[pa.Table]:
        if self._image is None:
            if len(text):
                yield pa.table(self._columns(text))
            return
        names = text[self._image].to_pylist()
        pictures = (Picture(n, partial(self._read, n), row) for row, n in enumerate(names))
        for some in check_pictures(pictures, self._problems, self._seen):
            columns = self._columns(text.take([each.row for each in some]))
            images = pa.array([each.data for each in some], pa.binary())
            yield pa.table({ID: columns.pop(ID), IMAGE: images, **columns})

    def _read(self, name: str) -> bytes:
        path = self._inside(name)
        if path is None:
            raise DataError("must be a path relative to the CSV and not lead out of its folder")
        return read_picture(path)

    def _columns(self, text: pa.Table) -> dict[str, Any]:
        """The columns of some rows as they are written, `id` first."""
        columns: dict[str, Any] = {ID: self._ids(text)}
        if self._features:
            columns[FEATURES] = _join(text, self._features)
        for name in self._names:
            if name in self._features or name in (ID, self._image):
                continue
            if name == self._label and self._labels is not None:
                values = [self._labels.numbers[each] for each in text[name].to_pylist()]
                columns[name] = pa.array(values, pa.int64())
            else:
                columns[name] = text[name].cast(self._kinds[name])
        if self._image is not None:
            columns[PATH] = text[self._image]
        if ID in self._names and self._kinds[ID] != pa.int64():
            columns["id_text"] = text[ID]
        return columns

    def _ids(self, text: pa.Table) -> Any:
        if ID not in self._names:
            return pc.subtract(text[_ROW], 1)
        if self._kinds[ID] == pa.int64():
            return text[ID].cast(pa.int64())
        return pa.array([id_of(each) for each in text[ID].to_pylist()], pa.int64())


def _header(path: Path) -> list[str]:
    """Names of the columns.

    Raises:
        DataError: There are none, or two are alike.
    """
    try:
        with csv.open_csv(path, parse_options=_parsing(path, lambda row: "skip")) as reader:
            names: list[str] = reader.schema.names
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _broken(path, error) from error
    twice = [name for name in names if names.count(name) > 1 or not name.strip()]
    if twice:
        raise DataError(
            f"{path}: the column name {twice[0]!r} stands twice in the first line, or is empty. "
            "The first line must name the columns."
        )
    return names


def _parsing(path: Path, on_bad_row: Any = None) -> Any:
    tabs = path.name.removesuffix(".gz").endswith(".tsv")
    return csv.ParseOptions(
        delimiter="\t" if tabs else ",", newlines_in_values=True, invalid_row_handler=on_bad_row
    )


def _blocks(path: Path, names: list[str], problems: Problems) -> Iterator[pa.Table]:
    """The rows as text, some megabytes at a time; an empty cell is null."""
    bad: list[str] = []

    def on_bad_row(row: Any) -> str:
        bad.append(
            f"{row.actual_columns} cells in place of {row.expected_columns}: {row.text[:60]}"
        )
        return "skip"

    try:
        with csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            parse_options=_parsing(path, on_bad_row),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        ) as reader:
            for batch in reader:
                while bad:
                    problems.add(str(path), f"a row has {bad.pop(0)}")
                yield pa.Table.from_batches([batch])
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _broken(path, error) from error
    while bad:
        problems.add(str(path), f"a row has {bad.pop(0)}")


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read as CSV ({error}). It must be UTF-8 with one line of names and as "
        "many cells in each row."
    )


def _may_name_pictures(text: Any) -> bool:
    """Whether all values end as names of pictures do; also where all are missing."""
    return pc.all(pc.match_substring_regex(text, _PICTURE)).as_py() is not False


def _fits(text: Any, kind: pa.DataType) -> bool:
    if kind == pa.bool_():  # arrow takes 0 and 1 for booleans too, and those are integers here
        values = pc.utf8_lower(text.drop_null().unique())
        return set(values.to_pylist()) <= {"true", "false"}
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _join(text: pa.Table, names: list[str]) -> Any:
    """Numeric columns side by side, float32 [n, k]."""
    values = [text[n].cast(pa.float64()).to_numpy().astype(np.float32) for n in names]
    flat = pa.array(np.stack(values, axis=1).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, len(names))
