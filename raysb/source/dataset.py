"""Rows from a `ray.data.Dataset`, and arrays that all processes of a node map: the Ray shell.

Ray's untyped handles stay inside this file.
"""

import copy
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data.block import BlockAccessor

from raysb.errors import DataError
from raysb.schema import ID, Batch, Ids, Source, take
from raysb.source.arrays import ArraySource
from raysb.source.columns import as_ragged, to_numpy
from raysb.source.decoded import DecodedSource
from raysb.source.formats import SAMPLE, find_formats
from raysb.source.grouped import GroupedSource
from raysb.source.settings import Data
from raysb.source.split import Part
from raysb.source.table import (
    FILE_SHIFT,
    PLACE,
    as_ids,
    check_columns,
    duplicate_error,
    first_duplicate,
)

_MAX_CHECKED = 5_000_000


class _Facts(NamedTuple):
    """What is known about one block after a look at it."""

    ids: Ids  # [rows]; empty where there are too many to look through
    rows: int
    bounds: tuple[int, int] | None  # of the target, where it is of integers
    shapes: dict[str, Any]  # of a row of each column of tensors


@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """The blocks of a materialised data set; a block is what a row group is to a file.

    Args:
        refs: One reference per block.
        columns: Columns to load.
        target: Column of labels.
        id_column: Column with the ids; None numbers the rows by (block, row).
        ragged: Columns of arrays of different shapes, also in blocks whose rows are alike.
        parts: Sides of splits by id to which the rows are restricted.
    """

    refs: list[Any]
    columns: tuple[str, ...]
    target: str | None
    id_column: str | None
    ragged: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()

    def load(self, block: int) -> Batch:
        """Columns, `id` and place of the rows of one block."""
        return self.convert(ray.get(self.refs[block]), block, self.columns)

    def convert(self, table: pa.Table, block: int, columns: tuple[str, ...]) -> Batch:
        """The same of a block that is there already."""
        batch = {name: _column(table, name, block) for name in columns}
        batch |= {name: as_ragged(batch[name]) for name in self.ragged.intersection(columns)}
        places = np.arange(table.num_rows, dtype=np.int64) + (block << FILE_SHIFT)
        ids = places
        if self.id_column is not None:
            where = f"block {block}, column {self.id_column!r}"
            ids = as_ids(_column(table, self.id_column, block), where)
        keep = np.ones(len(ids), np.bool_)
        for part in self.parts:
            keep &= part.keep(ids)
        rows = np.flatnonzero(keep) if self.parts else slice(None)
        return take({**batch, PLACE: places, ID: ids}, rows)

    def facts(self, want_ids: bool) -> list[_Facts]:
        """Look at every block where it lies."""
        blocks = replace(self, refs=[])
        return list(
            ray.get([_look.remote(ref, blocks, i, want_ids) for i, ref in enumerate(self.refs)])
        )


class DatasetSource(DecodedSource):
    """A `Source` over a `ray.data.Dataset`, which is materialised once.

    Blocks are permuted every epoch and rows shuffled within windows of `data.shuffle_window` of
    them. Without an integer id column rows are numbered by (block, row): a run can then only be
    resumed if the data set gives its blocks in the same order again.

    Args:
        dataset: The rows. All of them end up in the object store, see `size_bytes`.
        data: Names of the columns, `image_size`, `shuffle_window`.
        seed: Seed of the orders.

    Raises:
        DataError: See `ParquetSource`; blocks stand in for files.
    """

    def __init__(self, dataset: Any, *, data: Data, seed: int = 0) -> None:
        dataset = _materialise(dataset)
        self.size_bytes = int(dataset.size_bytes())
        logging.getLogger(__name__).warning(
            "materialised %s rows, %.1f MB in the object store",
            dataset.count(),
            self.size_bytes / 1e6,
        )
        if (count := int(dataset.count())) == 0:
            raise DataError("the ray.data.Dataset has no rows; nothing could be trained.")
        refs, schema = dataset.to_arrow_refs(), dataset.schema()
        id_column = data.id
        kinds = dict(zip(schema.names, schema.types, strict=True))
        if id_column is None and pa.types.is_integer(kinds.get(ID, pa.null())):
            id_column = ID
        target = () if data.target is None else (data.target,)
        columns = tuple(dict.fromkeys([*data.inputs, *target, *data.also]))
        ids = () if id_column is None else (id_column,)
        check_columns([*columns, *ids], list(schema.names), "the ray.data.Dataset")
        self._blocks = _Blocks(refs=refs, columns=columns, target=data.target, id_column=id_column)
        self._seed, self._window = seed, data.shuffle_window
        facts = self._blocks.facts(id_column is not None and count <= _MAX_CHECKED)
        self._blocks = replace(self._blocks, ragged=_ragged(facts))
        _check_unique([fact.ids for fact in facts])
        self._set_rows(facts)
        bounds = [fact.bounds for fact in facts if fact.bounds is not None]
        self._bounds = (min(b[0] for b in bounds), max(b[1] for b in bounds)) if bounds else None
        sample = self._rows.read(None, 0, min(SAMPLE, self.num_rows))
        self._formats = find_formats(
            sample,
            inputs=data.inputs,
            image_size=data.image_size,
            place=self._placed(sample[PLACE]),
        )

    def restrict(self, part: Part) -> Self:
        """The rows of one part of a split by id."""
        restricted = copy.copy(self)
        restricted._blocks = replace(self._blocks, parts=(*self._blocks.parts, part))
        restricted._set_rows(restricted._blocks.facts(want_ids=False))
        return restricted

    def label_bounds(self, column: str) -> tuple[int, int] | None:
        """Smallest and largest value of the target; None where it is not of integers."""
        return self._bounds if column == self._blocks.target else None

    def find(self, column: str, value: int) -> str:
        """Block and row of the first row with this value."""
        for block, ref in enumerate(self._blocks.refs):
            values = _column(ray.get(ref), column, block)
            if (rows := np.flatnonzero(values == value)).size:
                return f"block {block} row {rows[0]}"
        return "no row"

    def _words(self, place: int) -> str:
        return f"block {place >> FILE_SHIFT} row {place & ((1 << FILE_SHIFT) - 1)}"

    def _set_rows(self, facts: list[_Facts]) -> None:
        rows = [fact.rows for fact in facts]
        self._rows = GroupedSource(rows, self._blocks.load, seed=self._seed, window=self._window)


class SharedSource:
    """An `ArraySource` in the object store: it pickles as one reference.

    Processes map its arrays without copying them; what is read is a copy. Made by `share`.

    Args:
        refs: One reference to the source, in a list so that Ray passes it on unresolved.
        num_rows: Rows in one epoch.
    """

    def __init__(self, refs: list[Any], num_rows: int) -> None:
        self._refs = refs
        self._num_rows = num_rows

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""
        return self._num_rows

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Rows [start, stop) of the epoch's permutation; `None` is the order given."""
        return _mapped(self._refs[0]).read(epoch, start, stop)

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Ids of the rows [start, stop) of the epoch's permutation. int64 [stop - start]"""
        return _mapped(self._refs[0]).index(epoch, start, stop)

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64]
    ) -> Batch:
        """The rows at some positions of [start, stop)."""
        return _mapped(self._refs[0]).read_some(epoch, start, stop, rows)


def share(source: Source) -> Source:
    """Put the columns of an `ArraySource` into the object store, once for all readers.

    Other sources read from where their rows lie and are returned as they are.
    """
    if not isinstance(source, ArraySource):
        return source
    return SharedSource([ray.put(source)], source.num_rows)


@lru_cache(maxsize=4)  # train and test sets of this process and of the run before
def _mapped(ref: Any) -> ArraySource:
    """The source behind a reference, once per process: with it its last permutation is kept."""
    source: ArraySource = ray.get(ref)
    return source


def _materialise(dataset: Any) -> Any:
    """Execute the data set with its blocks in order, so that (block, row) means something."""
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        return dataset.materialize()
    finally:
        options.preserve_order = before


@ray.remote
def _look(table: pa.Table, blocks: _Blocks, block: int, want_ids: bool) -> _Facts:
    target = () if blocks.target is None else (blocks.target,)
    batch = blocks.convert(table, block, target)
    ids = batch[ID].astype(np.int64) if want_ids else np.empty(0, np.int64)
    bounds = None
    if target and len(batch[ID]) and batch[target[0]].dtype.kind in "iub":
        labels = batch[target[0]]
        if labels.ndim == 1:
            bounds = int(labels.min()), int(labels.max())
    return _Facts(ids, len(batch[ID]), bounds, _tensor_shapes(table))


def _tensor_shapes(table: pa.Table) -> dict[str, Any]:
    """Shape of a row of each column of tensors, `None` where rows may differ in it."""
    return {
        field.name: getattr(field.type, "shape", None)
        for field in table.schema
        if isinstance(field.type, pa.BaseExtensionType) or pa.types.is_list(field.type)
    }


def _ragged(facts: list[_Facts]) -> frozenset[str]:
    """Columns whose rows differ in shape in some block, or between blocks."""
    shapes: dict[str, set[Any]] = {}
    for fact in facts:
        for name, shape in fact.shapes.items():
            shapes.setdefault(name, set()).add(shape)
    return frozenset(name for name, found in shapes.items() if None in found or len(found) > 1)


def _column(table: pa.Table, name: str, block: int) -> npt.NDArray[np.generic]:
    """A column of a block; Ray's own tensor types become plain arrays here and go no further."""
    column = table[name]
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(f"block {block} row {row}: no value in the column {name!r}. Remove it.")
    if isinstance(column.type, pa.ExtensionType):
        return np.asarray(BlockAccessor.for_block(table).to_numpy(name))
    return to_numpy(column, f"block {block}, column {name!r}")


def _check_unique(ids: list[Ids]) -> None:
    joined = np.concatenate(ids)
    if (pair := first_duplicate(joined)) is None:
        return
    starts = np.cumsum([0, *(len(part) for part in ids)])
    blocks = [int(np.searchsorted(starts, row, side="right")) - 1 for row in pair]
    first, second = (
        f"block {block} row {row - starts[block]}" for block, row in zip(blocks, pair, strict=True)
    )
    raise duplicate_error(int(joined[pair[0]]), first, second)
