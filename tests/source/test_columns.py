from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysb.errors import DataError
from raysb.source.columns import as_ragged, to_numpy


def chunked(array: pa.Array) -> list[Any]:
    """The same values as one array, as a slice of a longer one, and in several chunks."""
    longer = pa.concat_arrays([array[-1:], array, array[:1]])
    chunks = pa.chunked_array([array[:1], array[1:1], array[1:]])
    return [array, longer[1 : 1 + len(array)], chunks]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint8(), pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()],
)
def test_numbers_keep_their_type(kind: pa.DataType) -> None:
    expected = np.array([1, 0, 1]).astype(kind.to_pandas_dtype())
    for column in chunked(pa.array(expected, kind)):
        found = to_numpy(column, "x")
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_fixed_size_lists_become_arrays_of_their_dimensions() -> None:
    values = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    inner = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2)
    for column in chunked(pa.FixedSizeListArray.from_arrays(inner, 3)):
        assert np.array_equal(to_numpy(column, "x"), values)


def test_fixed_shape_tensors_become_arrays() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    for column in (tensors, pa.chunked_array([tensors[:1], tensors[1:]])):
        assert np.array_equal(to_numpy(column, "x"), values)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int32())])
def test_lists_stay_ragged_even_when_they_are_alike(kind: pa.DataType) -> None:
    for rows in ([[1, 2], [], [3]], [[1], [2], [3]]):
        for column in chunked(pa.array(rows, kind)):
            found = to_numpy(column, "x")
            assert found.dtype == object
            assert found.shape == (3,)
            assert [row.tolist() for row in found] == rows
            assert all(row.dtype == np.int32 for row in found)


def test_rows_of_one_shape_become_ragged_without_losing_a_value() -> None:
    for values in (np.arange(6).reshape(2, 3), np.zeros((0, 3)), np.ones((3, 1)), np.ones((2, 0))):
        found = as_ragged(values)
        assert (found.dtype, found.shape) == (object, (len(values),))
        assert [row.tolist() for row in found] == values.tolist()
        assert as_ragged(found) is found


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (pa.string(), ["a", "", "bc"]),
        (pa.large_string(), ["a", "", "bc"]),
        (pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
        (pa.binary(), [b"a", b"", b"bc"]),
        (pa.large_binary(), [b"a", b"", b"bc"]),
        (pa.binary(2), [b"ab", b"cd", b"ef"]),
    ],
)
def test_text_and_bytes_become_objects(kind: pa.DataType, rows: list[Any]) -> None:
    for column in chunked(pa.array(rows).cast(kind)):
        found = to_numpy(column, "x")
        assert found.dtype == object
        assert found.tolist() == rows


def test_structs_of_bytes_and_path_give_the_bytes() -> None:
    rows = [{"bytes": b"a", "path": "x"}, {"bytes": None, "path": "y"}, {"bytes": b"c", "path": ""}]
    for column in chunked(pa.array(rows)):
        assert to_numpy(column, "x").tolist() == [b"a", None, b"c"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[[1]], [[2]]]),
        pa.array([{"a": 1}]),
        pa.array([["a"]]),
        pa.array([0], pa.timestamp("s")),
        pa.nulls(2),
    ],
)
def test_other_types_are_refused_by_name(column: pa.Array) -> None:
    with pytest.raises(DataError, match=r"f\.parquet, column 'x': the type"):
        to_numpy(column, "f.parquet, column 'x'")
