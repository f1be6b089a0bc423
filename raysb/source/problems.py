"""What makes parquet files train badly or not at all, each in a sentence with its remedy."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from raysb.source.rowgroups import RowGroups
from raysb.source.samples import Pictures
from raysb.source.table import first_duplicate

WINDOW = 4  # row groups, the default of data.shuffle_window
READER_BYTES = 1_000_000_000  # in one reader: more is worth a word
MIXED = 0.7  # of the classes that a group of random rows would hold
FEW_ROWS, FEW_BYTES = 32, 1_000_000  # in a row group: below both, reading is mostly waiting

_AGAIN = "write the files again: `raysb data convert PATH OUT`"


def null_problems(nulls: dict[str, int | None]) -> list[str]:
    """Missing values in columns that a run reads."""
    return [
        f"{count:,} rows have no value in the column {name!r}, and are an error when they are "
        "read: remove them"
        for name, count in nulls.items()
        if count
    ]


def group_problems(
    groups: RowGroups, footers: list[pq.FileMetaData], columns: list[str]
) -> list[str]:
    """Row groups too large or too small to stream."""
    sizes = [
        _group_bytes(footers[file], int(group), columns)
        for file, group in zip(groups.file.tolist(), groups.group.tolist(), strict=True)
    ]
    largest, few = max(sizes), np.median(groups.rows) < FEW_ROWS
    held = 2 * min(WINDOW, len(groups.rows)) * largest
    problems = []
    if held > READER_BYTES:
        problems.append(
            f"row groups of up to {largest / 1e6:,.0f} MB: each reader holds two windows of "
            f"{WINDOW}, {held / 1e9:.1f} GB. Set data.shuffle_window=1, or {_AGAIN}"
        )
    if len(sizes) > 1 and few and np.median(sizes) < FEW_BYTES:
        problems.append(
            f"row groups of {int(np.median(groups.rows))} rows: reading is mostly waiting, and a "
            f"window of {WINDOW} hardly mixes. Set data.shuffle_window=32, or {_AGAIN}"
        )
    return problems


def _group_bytes(footer: pq.FileMetaData, group: int, columns: list[str]) -> int:
    """Bytes of some columns of a row group, as they are in memory."""
    chunks = footer.row_group(group)
    every = (chunks.column(i) for i in range(chunks.num_columns))
    return sum(
        each.total_uncompressed_size
        for each in every
        if each.path_in_schema.partition(".")[0] in columns
    )


def class_problems(counts: list[dict[int, int]], target: str) -> list[str]:
    """Labels that are no classes from 0, and files that are sorted by class."""
    total = _merge(counts)
    problems = []
    if min(total) < 0:
        problems.append(f"the label {min(total)} in {target!r} is below 0: number classes from 0")
    if len(total) == 1:
        problems.append(f"all rows have the label {min(total)}: there is nothing to tell apart")
    found, expected = classes_in_a_window(counts)
    if found < MIXED * expected:
        problems.append(
            f"the rows are sorted by class: {WINDOW} row groups, which are shuffled together, hold "
            f"{found:.1f} of {len(total)} classes. Batches would be one-sided, and data.mean would "
            f"be that of the first: {_AGAIN}"
        )
    return problems


def classes_in_a_window(counts: list[dict[int, int]]) -> tuple[float, float]:
    """Expected classes among W row groups, as they are and as they were in random order.

    A run joins W groups drawn from all G. With g_c groups that hold class c, it is among them with
    chance 1 - C(G - g_c, W) / C(G, W); among n random rows, with share p_c of all, with chance
    1 - (1 - p_c)^n.

    Args:
        counts: Rows of each class, for each row group.
    """
    total, num_groups = _merge(counts), len(counts)
    window = min(WINDOW, num_groups)
    all_rows = sum(total.values())
    rows = all_rows * window / num_groups
    found = expected = 0.0
    for label, of_class in total.items():
        holding = sum(label in each for each in counts)
        found += 1 - math.comb(num_groups - holding, window) / math.comb(num_groups, window)
        expected += 1 - (1 - of_class / all_rows) ** rows
    return found, expected


def _merge(counts: list[dict[int, int]]) -> dict[int, int]:
    total: dict[int, int] = {}
    for each in counts:
        for label, rows in each.items():
            total[label] = total.get(label, 0) + rows
    return total


def id_problems(ids: npt.NDArray[np.int64] | None) -> list[str]:
    """No ids, or ids that name two rows."""
    if ids is None:
        return [
            "no integer column `id`: rows are numbered by file and row, and get other ids when "
            f"files are added or renamed. {_AGAIN.capitalize()}, or name a column in data.id"
        ]
    pair = first_duplicate(ids)
    if pair is None:
        return []
    return [
        f"the id {int(ids[pair[0]])} names two rows, {pair[0]} and {pair[1]}: their losses would "
        "be mixed up. Make the ids unique, or name another column in data.id"
    ]


def picture_problems(pictures: Pictures) -> list[str]:
    """Pictures that cannot be opened, or not be stacked."""
    problems = list(pictures.damaged)
    if pictures.image_size is not None:
        height, width, channels = pictures.image_size
        problems.append(
            f"{pictures.num_sizes} sizes among {pictures.looked_at} pictures: they are resized "
            f"with data.image_size={height},{width},{channels}, which is the median here"
        )
    return problems
