"""What parquet files hold, whether they stream well, and what `raysb train` would make of them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raysb.errors import DataError
from raysb.schema import ID
from raysb.source.classes import classes_of
from raysb.source.demo import DEMOS
from raysb.source.footer import DAMAGED, told
from raysb.source.open import open_sources
from raysb.source.problems import (
    class_problems,
    group_problems,
    id_problems,
    null_problems,
    picture_problems,
)
from raysb.source.rowgroups import RowGroups, open_row_groups
from raysb.source.samples import Pictures, sample_pictures
from raysb.source.settings import RESERVED, Data

MAX_IDS = 5_000_000  # as many as a run looks through for duplicates

_INPUTS = ("image", "img", "picture", "features", "x", "input", "inputs")
_TARGETS = ("label", "labels", "target", "class", "y", "fine_label")
_TEST_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the files.

    Args:
        name: Its name.
        type: Its type in Arrow's words.
        shape: Of one row; None where rows differ, or hold no numbers.
        role: `input`, `target`, `id`, or nothing.
        nulls: Missing values; None where the footers do not say.
    """

    name: str
    type: str
    shape: list[int] | None
    role: str
    nulls: int | None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run would make of the rows.

    Args:
        shapes: Shape of one row of each input and of the target; pictures are (H, W, C).
        num_classes: None where the target is no class.
        mean: Per channel of pixels in [0, 1], of the first 1,024 rows.
        std: Likewise.
    """

    shapes: Mapping[str, tuple[int, ...]]
    num_classes: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found.

    Args:
        path: As given.
        num_files: Files; 0 of a demo set, which lies in a package.
        num_rows: Rows in all of them.
        num_bytes: Their bytes on disk; of a demo set in memory.
        rows_per_group: Least, median and most rows of a row group.
        num_groups: Row groups.
        columns: Columns.
        class_counts: Rows of each class by number; None where the target is no class.
        class_names: Names by number, where the files know them.
        pictures: Sizes of a sample of pictures; None without pictures.
        training: What a run would make of it; None where it would refuse.
        command: A command line that trains on it; None where none would.
        problems: What should be mended, with how.
    """

    path: str
    num_files: int
    num_rows: int
    num_bytes: int
    rows_per_group: tuple[int, int, int]
    num_groups: int
    columns: list[Column]
    class_counts: dict[int, int] | None
    class_names: tuple[str, ...] | None
    pictures: Pictures | None
    training: Training | None
    command: str | None
    problems: list[str]


def inspect(path: str | Path) -> Inspection:
    """Look into parquet files; reads footers, ids, the target, and some pictures.

    Args:
        path: A file, folder, glob, URI or demo set, as `data.train` takes it.

    Raises:
        FileNotFoundError: The path matches nothing.
        DataError: A file is not parquet, or there are no rows.
        ImportError: The package of a demo set is not installed.
    """
    if isinstance(path, str) and path in DEMOS:
        return _inspect_demo(path)
    groups, footers = open_row_groups(path, columns=(), id_column=None)
    schema = footers[0].schema.to_arrow_schema()
    roles = find_roles(schema)
    target, source = _named(roles, "target"), _named(roles, "input")
    with told(f"{path}: the statistics cannot be read", DAMAGED):
        nulls = {name: _nulls(footers, name) for name in schema.names}
        small = group_problems(groups, footers, [n for n in schema.names if n in roles])
    problems = null_problems({name: nulls[name] for name in roles})
    counts = None
    if target and pa.types.is_integer(schema.field(target).type) and not nulls[target]:
        counts = _count(groups, target)
    problems += small
    problems += [] if counts is None else class_problems(counts, target or "")
    problems += id_problems(_ids(groups))
    pictures = None if source is None else sample_pictures(groups, source, schema.field(source))
    problems += [] if pictures is None else picture_problems(pictures)
    data = _data(str(path), schema, roles, pictures)
    training = None
    if data is None:
        problems.append(_no_input(schema, target))
    else:
        training, refused = _try(data, labels=counts is not None)
        problems += [refused] if refused else []
    return Inspection(
        path=str(path),
        num_files=len(groups.files),
        num_rows=int(groups.rows.sum()),
        num_bytes=sum(groups.filesystem.get_file_info(file).size for file in groups.files),
        rows_per_group=_spread(groups.rows),
        num_groups=len(groups.rows),
        columns=[_column(schema.field(n), roles.get(n, ""), nulls[n]) for n in schema.names],
        class_counts=None if counts is None else _sums(counts),
        class_names=None if target is None else classes_of(schema, target),
        pictures=pictures,
        training=training,
        command=_command(data, training),
        problems=problems,
    )


def _inspect_demo(name: str) -> Inspection:
    """Of rows that lie in a package, and in memory while a run lasts: there is no file."""
    columns, data = DEMOS[name](), Data(train=name)
    roles = {data.inputs[0]: "input", data.target: "target", ID: "id"}
    classes, rows = np.unique(columns["label"], return_counts=True)
    training, refused = _try(data, labels=True)
    return Inspection(
        path=name,
        num_files=0,
        num_rows=len(columns[ID]),
        num_bytes=sum(column.nbytes for column in columns.values()),
        rows_per_group=(0, 0, 0),
        num_groups=0,
        columns=[
            Column(name=n, type=str(c.dtype), shape=list(c.shape[1:]), role=roles[n], nulls=0)
            for n, c in columns.items()
        ],
        class_counts=dict(zip(classes.tolist(), rows.tolist(), strict=True)),
        class_names=None,
        pictures=None,
        training=training,
        command=_command(data, training),
        problems=[refused] if refused else [],
    )


def find_roles(schema: pa.Schema) -> dict[str, str]:
    """Which columns a run would most likely take for what: by their names, then by their types."""
    roles = {}
    if ID in schema.names and pa.types.is_integer(schema.field(ID).type):
        roles[ID] = "id"
    free = [n for n in schema.names if n not in RESERVED]
    targets = [n for n in _TARGETS if n in free and _is_scalar(schema.field(n).type)]
    if not targets:
        whole = [n for n in free if pa.types.is_integer(schema.field(n).type)]
        targets = whole if len(whole) == 1 else []
    fitting = [n for n in free if n not in targets[:1] and _is_input(schema.field(n).type)]
    inputs = [n for n in _INPUTS if n in fitting] or fitting
    return {
        **roles,
        **dict.fromkeys(targets[:1], "target"),
        **dict.fromkeys(inputs[:1], "input"),
    }


def _named(roles: Mapping[str, str], role: str) -> str | None:
    return next((name for name, each in roles.items() if each == role), None)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_scalar(kind: pa.DataType) -> bool:
    return _is_number(kind) or bool(pa.types.is_boolean(kind))


def _is_input(kind: pa.DataType) -> bool:
    """Pictures, and rows of equally many numbers: what a model of raysb's own can take."""
    pictures = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    struct = pa.types.is_struct(kind) and "bytes" in [
        kind.field(i).name for i in range(kind.num_fields)
    ]
    return bool(pictures or struct or _shape(kind))


def _shape(kind: pa.DataType) -> list[int] | None:
    """Shape of one row of numbers; [] for one number."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return list(kind.shape)
    if pa.types.is_fixed_size_list(kind):
        inner = _shape(kind.value_type)
        return None if inner is None else [kind.list_size, *inner]
    return [] if _is_scalar(kind) else None


def _column(field: pa.Field, role: str, nulls: int | None) -> Column:
    return Column(
        name=field.name, type=str(field.type), shape=_shape(field.type), role=role, nulls=nulls
    )


def _nulls(footers: list[pq.FileMetaData], column: str) -> int | None:
    """Missing values of a flat column; None where a footer does not say."""
    total = 0
    for footer in footers:
        names = [footer.schema.column(i).path for i in range(footer.num_columns)]
        if column not in names:
            return None
        for group in range(footer.num_row_groups):
            stats = footer.row_group(group).column(names.index(column)).statistics
            if stats is None or not stats.has_null_count:
                return None
            total += stats.null_count
    return total


def _count(groups: RowGroups, target: str) -> list[dict[int, int]]:
    """Rows of each class, for each row group."""
    counts = []
    for group in range(len(groups.rows)):
        values = groups.table(group, [target])[target].to_numpy()
        classes, rows = np.unique(values, return_counts=True)
        counts.append(dict(zip(classes.tolist(), rows.tolist(), strict=True)))
    return counts


def _sums(counts: list[dict[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for label, rows in each.items():
            total[label] = total.get(label, 0) + rows
    return dict(sorted(total.items()))


def _ids(groups: RowGroups) -> npt.NDArray[np.int64] | None:
    """All ids as they are stored; None where there are none, or too many to look through."""
    if groups.id_column is None or int(groups.rows.sum()) > MAX_IDS:
        return None if groups.id_column is None else np.empty(0, np.int64)
    try:
        return np.concatenate([groups.ids(group) for group in range(len(groups.rows))])
    except DataError:
        return np.empty(0, np.int64)  # missing values are a problem of their own


def _data(
    path: str, schema: pa.Schema, roles: Mapping[str, str], pictures: Pictures | None
) -> Data | None:
    """Settings with which a run reads the files; None where there is nothing to learn from."""
    source = _named(roles, "input")
    if source is None:
        return None
    size = None if pictures is None else pictures.image_size
    return Data(
        train=path,
        inputs=(source,),
        target=_named(roles, "target"),
        image_size=size,
        test_fraction=_TEST_FRACTION,
    )


def _no_input(schema: pa.Schema, target: str | None) -> str:
    numbers = [n for n in schema.names if n not in RESERVED and _is_number(schema.field(n).type)]
    inputs = [name for name in numbers if name != target]
    how = "write the rows with one column of pictures, or of lists with equally many numbers"
    if inputs:
        apart = "" if target in (None, "label") else f" --label-column {shlex.quote(str(target))}"
        more = ",..." if len(inputs) > 3 else ""
        how = (
            "join the columns of numbers into one: `raysb data convert FILE.csv OUT --features "
            f"all{apart}`; a model of one's own takes them as "
            f"data.inputs={','.join(inputs[:3])}{more}"
        )
    return f"no column can be the input of one of raysb's own models: {how}"


def _try(data: Data, *, labels: bool) -> tuple[Training | None, str]:
    """Open the rows as a run would; what it says where it refuses."""
    try:
        found = open_sources(replace(data, test_fraction=0.0), seed=0, labels=labels)
    except (DataError, ValueError, ImportError) as error:
        return None, f"raysb train would refuse: {error}"
    training = Training(
        shapes=found.shapes, num_classes=found.num_classes, mean=found.mean, std=found.std
    )
    return training, ""


def _command(data: Data | None, training: Training | None) -> str | None:
    """The shortest command line that trains on the rows."""
    if data is None or training is None or data.target is None:
        return None
    words = ["raysb", "train", "--data.train", data.train]
    if data.inputs != ("image",):
        words += ["--data.inputs", data.inputs[0]]
    if data.target != "label":
        words += ["--data.target", data.target]
    if data.image_size is not None:
        words += ["--data.image_size", ",".join(map(str, data.image_size))]
    if data.test_fraction:
        words += ["--data.test_fraction", str(data.test_fraction)]
    if training.mean is None:
        words += ["--model.name", "mlp"]
    if training.num_classes is None:
        words += ["--train.loss", "mse"]
    return shlex.join(words)


def _spread(rows: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    return int(rows.min()), int(np.median(rows)), int(rows.max())
