"""Sizes of some pictures of parquet files, from their headers; none is decoded."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raysb.errors import DataError
from raysb.source.columns import to_numpy
from raysb.source.images import COLOUR, open_picture
from raysb.source.rowgroups import RowGroups
from raysb.source.table import FILE_SHIFT

GROUPS, ROWS = 8, 64  # row groups that are looked into, spread evenly; rows of each


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a sample of pictures is like.

    Args:
        column: Where they are.
        looked_at: Pictures in the sample.
        sizes: The most frequent sizes as (height, width, pictures).
        num_sizes: Different sizes in the sample.
        formats: Pictures by format, `PNG` or `JPEG`.
        colour: Pictures in colour.
        image_size: (H, W, C) for `data.image_size` where sizes differ; None where they do not.
        damaged: What is wrong with those that cannot be opened, the first few.
    """

    column: str
    looked_at: int
    sizes: list[tuple[int, int, int]]
    num_sizes: int
    formats: dict[str, int]
    colour: int
    image_size: tuple[int, ...] | None
    damaged: list[str]


def sample_pictures(groups: RowGroups, column: str, field: pa.Field) -> Pictures | None:
    """Look at pictures from all over the files; None where the column holds none.

    Args:
        groups: The row groups.
        column: The column with the pictures.
        field: Its type and metadata.
    """
    if not (pa.types.is_struct(field.type) or pa.types.is_binary(field.type)):
        return None
    if (field.metadata or {}).get(b"encoding") == b"raw":
        return None
    sizes: Counter[tuple[int, int]] = Counter()
    formats: Counter[str] = Counter()
    colour, damaged, looked = 0, list[str](), 0
    chosen = np.unique(np.linspace(0, len(groups.rows) - 1, GROUPS).astype(int))
    for group in chosen.tolist():
        first = (int(groups.file[group]) << FILE_SHIFT) + int(groups.first[group])
        for place, value in enumerate(_values(groups, group, column), first):
            looked += 1
            try:
                picture = open_picture(value, groups.place, place)
            except DataError as error:
                damaged.append(str(error))
                continue
            sizes[picture.height, picture.width] += 1
            formats[str(picture.format)] += 1
            colour += picture.mode in COLOUR
    if not sizes:
        return None  # raw pixels, most likely: their shape is the metadata's
    return Pictures(
        column=column,
        looked_at=looked,
        sizes=[(*size, count) for size, count in sizes.most_common(5)],
        num_sizes=len(sizes),
        formats=dict(formats),
        colour=colour,
        image_size=_common(sizes, colour) if len(sizes) > 1 else None,
        damaged=damaged[:3],
    )


def _values(groups: RowGroups, group: int, column: str) -> Any:
    try:
        table = groups.table(group, [column])
    except DataError:  # missing values are a problem of their own
        return []
    return to_numpy(table[column], column)[:ROWS]


def _common(sizes: Counter[tuple[int, int]], colour: int) -> tuple[int, ...]:
    """The median size, rounded to a multiple of 8, at most 224 pixels a side."""
    every = np.array(list(sizes.elements()))
    height, width = (int(np.clip(np.median(side) // 8 * 8, 8, 224)) for side in every.T)
    return height, width, 3 if colour else 1
