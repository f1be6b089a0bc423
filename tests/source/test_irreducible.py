"""Irreducible losses are found by id, whatever the order of the rows."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.errors import DataError
from raysb.source.irreducible import IrreducibleLosses

IDS = np.array([7, -3, 2**62, 40, 5])
LOSSES = np.array([0.7, 0.3, 6.2, 4.0, np.nan], np.float32)


@pytest.fixture
def write(tmp_path):
    def write(**columns):
        path = tmp_path / "scores.parquet"
        pq.write_table(pa.table(columns), path)
        return str(path)

    return write


def test_they_are_read_from_what_raysb_score_writes(write) -> None:
    path = write(id=IDS, row=np.arange(5), loss=LOSSES, correct=np.ones(5, bool))
    known = IrreducibleLosses.load(path)
    assert len(known) == 5
    found = known.lookup(np.array([40, 7, 7, 5]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([4.0, 0.7, 0.7, np.nan]))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=50), st.randoms())
def test_lookup_is_that_of_a_dictionary(ids, random) -> None:
    values = np.random.default_rng(0).normal(size=len(ids)).astype(np.float32)
    table = dict(zip(ids, values.tolist(), strict=True))
    asked = ids[: len(ids) // 2] + ids[:3]
    random.shuffle(asked)
    known = IrreducibleLosses.of(np.array(ids, np.int64), values)
    assert known.lookup(np.array(asked, np.int64)).tolist() == [table[each] for each in asked]


def test_ids_without_a_value_are_counted_and_named() -> None:
    known = IrreducibleLosses.of(IDS, LOSSES, "il.parquet")
    with pytest.raises(
        DataError, match=r"il.parquet: 2 of 3 ids have none, e.g. 8, -9 \(it holds 5"
    ):
        known.lookup(np.array([8, 7, -9]))
    with pytest.raises(DataError, match=r"9 of 9 ids have none, e.g. 0, 1, 2, 3, 4, \.\.\. "):
        IrreducibleLosses.of(IDS[:0], LOSSES[:0]).lookup(np.arange(9))
    with pytest.raises(DataError, match="1 of 1"):
        known.lookup(np.array([2**63 - 1]))


def test_a_batch_gets_the_column_unless_it_has_it() -> None:
    known = IrreducibleLosses.of(IDS, LOSSES)
    batch = {"id": np.array([40, -3], np.int32), "x": np.ones(2)}
    added = known.add_to(batch)
    np.testing.assert_array_equal(added["irreducible_loss"], np.float32([4.0, 0.3]))
    assert set(batch) == {"id", "x"}
    given = {"id": np.array([999]), "irreducible_loss": np.float32([0.5])}
    assert known.add_to(given) is given


def test_they_pass_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(IrreducibleLosses.of(IDS, LOSSES)))
    assert copy.lookup(np.array([40])).tolist() == [4.0]


def test_a_file_that_is_missing_or_of_another_kind_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none.parquet.*raysb score"):
        IrreducibleLosses.load(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="is not a parquet file"):
        IrreducibleLosses.load(tmp_path / "text.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": IDS}, "no column 'loss' among id; needed are"),
        ({"key": IDS, "loss": LOSSES}, "no column 'id' among key, loss"),
        ({"id": IDS * 0.5, "loss": LOSSES}, "'id' is double and 'loss' is float"),
        ({"id": IDS, "loss": list("abcde")}, "'loss' is string"),
        ({"id": [1, 2, 1, 2, 2], "loss": LOSSES}, "3 ids occur more than once, e.g. 1, 2, 2"),
        ({"id": [4, 5, 6], "loss": [0.5, None, None]}, "2 of 3 rows have no loss, ids 5, 6"),
        ({"id": [4, None], "loss": [0.5, 1.0]}, "1 rows have no 'id'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(write, columns, message) -> None:
    with pytest.raises(DataError, match=message):
        IrreducibleLosses.load(write(**columns))
