"""From what stands for a class - a folder, the text of a file, a cell - to its number."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raysb.errors import DataError
from raysb.source.classes import with_classes
from raysb.source.settings import nearest

CLASSES = "_classes.json"  # by number; the underscore hides it from readers of parquet folders
MAX_CLASSES = 100_000

_SPLITS = {"train", "training", "test", "val", "valid", "validation", "eval", "dev"}


@dataclass(frozen=True)
class Labels:
    """The labels of some rows.

    Args:
        texts: What stands for the class of each row.
        names: Names of the classes by number; None where they have none.
        numbers: The number behind each text.
    """

    texts: Sequence[str]
    names: tuple[str, ...] | None
    numbers: Mapping[str, int]

    def field(self, name: str) -> pa.Field:
        """The column of these labels, which knows the names."""
        field = pa.field(name, pa.int64())
        return field if self.names is None else with_classes(field, self.names)

    def of(self, rows: Iterable[int]) -> pa.Array:
        """Numbers of the classes of some rows, int64."""
        return pa.array([self.numbers[self.texts[row]] for row in rows], pa.int64())


def by_name(texts: Sequence[str], given: Sequence[str] | None, where: str) -> Labels:
    """Labels whose texts are names of classes."""
    names = class_names(set(texts), given, where)
    return Labels(texts, names, {name: number for number, name in enumerate(names)})


def by_number(texts: Sequence[str], given: Sequence[str] | None, where: str) -> Labels:
    """Labels whose texts are the numbers themselves; `given` may name them.

    Raises:
        DataError: A number has no name.
    """
    numbers = {text: int(text) for text in set(texts)}
    if given is not None and max(numbers.values()) >= len(given):
        raise DataError(
            f"{where}: the label {max(numbers.values())} has no name among the {len(given)} of "
            "--classes. Add it, or leave --classes out."
        )
    return Labels(texts, None if given is None else tuple(given), numbers)


def class_names(found: set[str], given: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Class names by number: those given, else those found, sorted (numerically if all digits).

    Raises:
        DataError: A name is not among those given; too many; or they are parts of a split.
    """
    if len(found) > MAX_CLASSES:
        raise DataError(
            f"{where}: {len(found):,} different labels, more than {MAX_CLASSES:,}, so they are no "
            "classes. Name another column with --label-column."
        )
    if given is None:
        if {name.lower() for name in found} <= _SPLITS:
            raise DataError(
                f"{where}: {', '.join(sorted(found))} are parts of a split, and would become "
                f"classes. Convert each by itself, the second with --classes FIRST/{CLASSES}."
            )
        digits = all(name.isdecimal() for name in found)
        return tuple(sorted(found, key=lambda name: (int(name) if digits else 0, name)))
    if unknown := sorted(found - set(given)):
        raise DataError(
            f"{where}: the class {unknown[0]!r} is not among the {len(given)} of --classes; "
            f"{nearest(unknown[0], tuple(given)[:20])}."
        )
    return tuple(given)


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names from `_classes.json`, or from the converted folder that holds it.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It is no list of names.
    """
    file = Path(path) / CLASSES if Path(path).is_dir() else Path(path)
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"--classes {path}: there is no file {file}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"--classes {path}: cannot be read ({error})") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'--classes {path}: a list of names, ["cat", "dog"], is needed')
    return tuple(names)
