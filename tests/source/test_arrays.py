import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysb.errors import DataError
from raysb.source.arrays import ArraySource
from raysb.source.plan import PoolPlan
from raysb.source.split import Part, split_by_id


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 2**31))
def test_every_id_exactly_once_per_epoch(rows: int, pool: int, seed: int) -> None:
    source = ArraySource({"x": np.arange(rows) * 10}, seed=seed)
    plan = PoolPlan(num_rows=rows, pool_rows=pool, epochs=2)
    ids: list[list[int]] = [[], []]
    for number in range(plan.num_pools):
        epoch, start, stop = plan.locate(number)
        batch = source.read(epoch, start, stop)
        assert np.array_equal(batch["x"], batch["id"] * 10)
        ids[epoch] += batch["id"].tolist()
    assert [sorted(epoch) for epoch in ids] == [list(range(rows))] * 2
    assert ids[0] == source.read(0, 0, rows)["id"].tolist()


def test_an_epoch_is_a_permutation_of_all_rows_and_no_two_are_alike() -> None:
    source = ArraySource({"x": np.arange(1000)}, seed=3)
    first, second = (source.read(epoch, 0, 1000)["id"] for epoch in (0, 1))
    assert not np.array_equal(first, second)
    # A true permutation: the rank correlation with the given order is that of chance.
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1


def test_fresh_and_pickled_objects_read_the_same_rows() -> None:
    columns = {"x": np.arange(50), "id": np.arange(50)[::-1] * 7}
    first = ArraySource(columns, seed=5)
    first.read(3, 0, 1)
    for other in (ArraySource(columns, seed=5), pickle.loads(pickle.dumps(first))):
        for name, column in first.read(2, 10, 31).items():
            assert np.array_equal(column, other.read(2, 10, 31)[name])
    other = ArraySource(columns, seed=6)
    assert not np.array_equal(first.read(2, 0, 50)["id"], other.read(2, 0, 50)["id"])


def test_no_epoch_is_the_given_order() -> None:
    source = ArraySource({"x": np.arange(9), "key": np.arange(9) + 100}, id_column="key")
    batch = source.read(None, 2, 5)
    assert sorted(batch) == ["id", "x"]
    assert batch["id"].tolist() == [102, 103, 104]
    assert batch["id"].dtype == np.int64


def test_tensors_become_arrays_and_keep_their_type() -> None:
    source = ArraySource({"x": torch.arange(6, dtype=torch.uint8).reshape(3, 2)})
    assert source.read(None, 0, 3)["x"].dtype == np.uint8
    assert source.read(None, 0, 3)["x"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_batch_may_be_written_to() -> None:
    source = ArraySource({"x": np.zeros(4)})
    for epoch in (None, 0):
        source.read(epoch, 0, 4)["x"][:] = 1
    assert source.columns["x"].sum() == 0


def test_restricting_to_both_parts_splits_the_rows_by_id() -> None:
    source = ArraySource({"x": np.arange(200), "id": np.arange(200) * 3})
    held = split_by_id(source.ids, 0.25)
    train = source.restrict(Part(fraction=0.25, held_out=False))
    test = source.restrict(Part(fraction=0.25, held_out=True))
    assert np.array_equal(train.ids, source.ids[~held])
    assert np.array_equal(test.ids, source.ids[held])


def test_label_bounds_and_find() -> None:
    source = ArraySource({"y": np.array([3, 1, 2]), "r": np.array([0.5, 1, 2])})
    assert source.label_bounds("y") == (1, 3)
    assert source.label_bounds("r") is None
    assert source.find("y", 2) == "row 2"


@pytest.mark.parametrize(
    ("columns", "id_column", "words"),
    [
        ({}, None, "at least one column"),
        ({"x": np.zeros(0)}, None, "no rows"),
        ({"x": np.zeros(2), "y": np.zeros(3)}, None, "different numbers of rows"),
        ({"x": 1.0}, None, "one value"),
        ({"x": [[1], [1, 2]]}, None, "different shapes"),
        ({"x": np.zeros(2), "id": [0.5, 1]}, None, "integer"),
        ({"x": np.zeros(2), "id": ["a", "b"]}, None, "integer"),
        ({"x": np.zeros(3), "id": [4, 5, 4]}, None, "the id 4 names two rows: row 0, and row 2"),
        ({"x": np.zeros(2), "key": [1, 2]}, "kez", "did you mean 'key'"),
        ({"x": np.zeros(1), "id": np.array([2**63], np.uint64)}, None, "int64"),
    ],
)
def test_columns_that_cannot_be_rows_are_refused(
    columns: dict[str, Any], id_column: str | None, words: str
) -> None:
    with pytest.raises(DataError) as caught:
        ArraySource(columns, id_column=id_column)
    assert words in str(caught.value)


@pytest.mark.parametrize("span", [(-1, 2), (2, 1), (0, 4)])
def test_rows_that_an_epoch_does_not_have_are_refused(span: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="0 to 3"):
        ArraySource({"x": np.zeros(3)}).read(0, *span)
