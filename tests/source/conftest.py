from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

# No law here is about time, and the first example of a test also pays for imports.
settings.register_profile("without_clock", deadline=None)
settings.load_profile("without_clock")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write columns to a parquet file and give its path."""

    def write(name: str, columns: Any, *, group: int = 10, metadata: Any = None) -> str:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
        return str(path)

    return write


@pytest.fixture
def numbers(write: Callable[..., str]) -> Callable[..., str]:
    """Write a table with the columns x [n, 3], label and id, ids from `first` on, shuffled."""

    def numbers(name: str = "numbers.parquet", *, n: int = 37, first: int = 0, **how: Any) -> str:
        rng = np.random.default_rng(first)
        ids = rng.permutation(n) + first
        x = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 3).astype(np.float32)), 3)
        return write(name, {"x": x, "label": ids % 4, "id": ids}, **how)

    return numbers
