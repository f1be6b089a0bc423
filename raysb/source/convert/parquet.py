"""Rows of parquet as they are, to be written again in another order and in other row groups."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysb.schema import ID
from raysb.source.convert.settings import Convert, Problems
from raysb.source.files import find_files
from raysb.source.footer import open_parquet, read_footer, told
from raysb.source.rowgroups import open_row_groups

_ROWS = 4_096  # read at once


class ParquetReader:
    """Parquet files with one schema; rows without `id` get their number.

    Args:
        path: A file or a folder.
        settings: Not used: rows stay as they are.
        problems: Not used.
    """

    def __init__(self, path: Path, settings: Convert, problems: Problems) -> None:
        self._filesystem, self._files = find_files(path)
        first = read_footer(self._filesystem, self._files[0]).schema.to_arrow_schema()
        names = tuple(first.names)
        _, footers = open_row_groups(path, columns=names, id_column=None)  # checks the schemas
        groups = [footer.row_group(g) for footer in footers for g in range(footer.num_row_groups)]
        self.num_bytes = sum(group.total_byte_size for group in groups)
        self._schema = first

    def schema(self) -> pa.Schema:
        """Columns with their types and what the files say of them."""
        if ID in self._schema.names:
            return self._schema
        return self._schema.insert(0, pa.field(ID, pa.int64()))

    def tables(self) -> Iterator[pa.Table]:
        """All rows in the order of the files."""
        first = 0
        for file in self._files:
            for batch in self._batches(file):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                if ID not in table.column_names:
                    ids = np.arange(first, first + len(table))
                    table = table.add_column(0, ID, pa.array(ids))
                first += len(table)
                yield table

    def _batches(self, file: str) -> Iterator[pa.RecordBatch]:
        """The rows of a file, each batch with values that are what their types say."""
        with (
            self._filesystem.open_input_file(file) as stream,
            told(f"{file}: cannot be read to its end", "The file is damaged: fetch it again."),
        ):
            for batch in open_parquet(stream).iter_batches(_ROWS, use_threads=False):
                batch.validate(full=True)
                yield batch
