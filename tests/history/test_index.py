"""The index finds what was added and nothing else, also when it is full to the brim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.history.index import IdIndex

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, unique=True, max_size=60), st.lists(INT64, max_size=20), st.integers(1, 9))
def test_rows_are_those_of_a_dict(ids, others, step) -> None:
    column = np.array(ids, np.int64)
    index = IdIndex(len(ids))  # exactly as many as fit
    for start in range(0, len(ids), step):
        rows = np.arange(start, min(start + step, len(ids)))
        index.add(column[rows], rows)
    rows = {i: row for row, i in enumerate(ids)}
    asked = np.array(ids + others, np.int64)
    assert index.find(asked, column).tolist() == [rows.get(i, -1) for i in asked.tolist()]


@pytest.mark.parametrize("stride", [1, 2**20, 2**32, 2**40])
def test_ids_of_any_stride_are_found(stride) -> None:
    column = np.arange(100_000) * stride
    index = IdIndex(len(column))
    index.add_all(column)
    assert (index.find(column, column) == np.arange(len(column))).all()
    assert (index.find(-1 - column, column) == -1).all()
