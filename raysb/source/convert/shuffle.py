"""A random order of rows that need not fit into memory (Rao 1961, Sandelius 1962).

Each row goes into one of K buckets by a draw of its own; each bucket is then shuffled by itself.
All orders are equally likely. A bucket becomes a file, so only one is in memory at a time; what
comes in meanwhile lies in files of one record batch per bucket.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysb.seeding import generator

MEMORY = 128_000_000  # bytes of rows that are kept before they are written to the disk


class Shuffle:
    """Takes rows in order, gives them back by bucket, shuffled.

    Args:
        folder: For what does not fit into memory; created when that happens.
        num_buckets: K, at least 1.
        seed: Key of the order; the same rows in the same order give the same.
    """

    def __init__(self, folder: Path, num_buckets: int, seed: int) -> None:
        self._folder, self._num_buckets, self._seed = folder, num_buckets, seed
        self._draws = generator(seed, "buckets")
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self._spills: list[Path] = []
        self.num_rows = 0

    def add(self, table: pa.Table) -> None:
        """Take rows."""
        self._tables.append(table)
        self._bytes += table.nbytes
        self.num_rows += len(table)
        if self._bytes >= MEMORY:
            self._spill()

    def buckets(self) -> Iterator[pa.Table]:
        """The shuffled rows of each bucket that has any; nothing may be added afterwards."""
        kept = self._sorted() if self._tables else None
        for bucket in range(self._num_buckets):
            parts = [_part(path, bucket) for path in self._spills]
            if kept is not None:
                parts.append(kept[bucket])
            table = pa.concat_tables([part for part in parts if len(part)] or parts)
            if len(table):
                yield table.take(generator(self._seed, "rows", bucket).permutation(len(table)))

    def _sorted(self) -> list[pa.Table]:
        """The rows in memory, by bucket; memory is free afterwards."""
        table = pa.concat_tables(self._tables)
        drawn = self._draws.integers(self._num_buckets, size=len(table))
        self._tables, self._bytes = [], 0
        return [table.take(np.flatnonzero(drawn == k)) for k in range(self._num_buckets)]

    def _spill(self) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{len(self._spills)}.arrow"
        buckets = self._sorted()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, buckets[0].schema) as writer:
            for bucket in buckets:
                # one batch each, also of none, so that its number is that of the bucket
                batches = bucket.combine_chunks().to_batches()
                writer.write_batch(batches[0] if batches else _no_rows(bucket.schema))
        self._spills.append(path)


def _part(path: Path, bucket: int) -> pa.Table:
    with pa.OSFile(str(path), "rb") as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(bucket)])


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
