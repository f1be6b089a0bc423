"""Spans cover every row once, and a row's file and place are those that pyarrow gives."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from raysb.source.arrays import ArraySource
from raysb.source.parquet import ParquetSource
from raysb.source.settings import Data
from raysb.source.spans import (
    SPAN_BYTES,
    class_names,
    ids_and_target,
    origin_of,
    row_group_starts,
    rows_of_span,
    spans,
)

GROUPS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(GROUPS, st.integers(1, 50))
def test_spans_cover_every_row_once_in_order_and_none_is_too_long(groups, size) -> None:
    found = spans(np.concatenate([[0], np.cumsum(groups)]), size)
    rows = [row for start, stop in found.tolist() for row in range(start, stop)]
    assert rows == list(range(sum(groups)))
    assert 1 <= np.diff(found, axis=1).min()
    assert np.diff(found, axis=1).max() <= size


@given(GROUPS)
def test_groups_that_fit_into_a_span_are_never_cut(groups) -> None:
    starts = np.concatenate([[0], np.cumsum(groups)])
    found = spans(starts, max(groups))
    assert set(found.ravel().tolist()) <= set(starts.tolist())


def test_neighbouring_groups_share_a_span_up_to_its_last_row() -> None:
    assert spans(np.array([0, 5, 10, 15]), 10).tolist() == [[0, 10], [10, 15]]
    assert spans(np.array([0, 20, 23]), 8).tolist() == [[0, 8], [8, 16], [16, 23]]


def test_a_span_has_whole_batches_that_can_be_held_and_shared_out() -> None:
    def rows(shape, **numbers):
        return rows_of_span({"x": np.zeros((8, *shape), np.uint8)}, **numbers)

    assert rows((10,), num_rows=10**6, batch_size=256, processes=2) == 62_464  # 10^6 / 16, in 256s
    many = rows((224, 224, 3), num_rows=10**7, batch_size=64, processes=2)
    assert many == 192  # 222 pictures in 32 MiB
    assert many * 224 * 224 * 3 <= SPAN_BYTES
    assert rows((5000, 5000), num_rows=100, batch_size=64, processes=1) == 64  # never less
    assert rows((10,), num_rows=3, batch_size=64, processes=8) == 64


def test_the_place_of_a_row_is_its_file_and_its_position_there(tmp_path) -> None:
    total = 0
    for name, rows in {"b": 7, "a": 12, "c": 1}.items():
        table = pa.table({"x": np.arange(rows, dtype=np.float32), "file": [name] * rows})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=5)
        total += rows
    data = Data(train=str(tmp_path), inputs=("x",), target=None)
    source = ParquetSource(str(tmp_path), data=data)
    origin = origin_of(source)
    file, row = origin.locate(0, total)
    names = [origin.files[i] for i in file]
    order = [str(tmp_path / f"{name}.parquet") for name in ["a"] * 12 + ["b"] * 7 + ["c"]]
    assert names == order
    np.testing.assert_array_equal(row, source.read(None, 0, total)["x"])
    assert [part.tolist() for part in origin.locate(11, 14)] == [[0, 1, 1], [11, 0, 1]]
    assert row_group_starts(source).tolist() == [0, 5, 10, 12, 17, 19, 20]


def test_rows_from_memory_lie_in_no_file_and_a_demo_set_in_one_of_its_name() -> None:
    source = ArraySource({"x": np.zeros(4)})
    assert origin_of(source, {"x": 0}).files == [None]
    assert origin_of(source, "digits").files == ["digits"]
    assert origin_of(source, "digits").locate(1, 3)[1].tolist() == [1, 2]


def test_ids_and_right_answers_are_those_that_were_written_and_no_input_is_read(tmp_path) -> None:
    rng, written = np.random.default_rng(0), []
    for name, count in (("a", 30), ("b", 5)):
        ids = rng.integers(-(2**62), 2**62, count)
        label = rng.integers(0, 9, count).astype(np.int16)
        image = [b"no picture"] * count
        table = pa.table({"label": label, "key": ids, "image": image})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=8)
        written.append((ids, label))
    data = Data(inputs=("key",), id="key")  # pictures that cannot be decoded are not looked at
    source = ParquetSource(str(tmp_path), data=data)
    ids, label = ids_and_target(source, "label")
    np.testing.assert_array_equal(ids, np.concatenate([part[0] for part in written]))
    np.testing.assert_array_equal(label, np.concatenate([part[1] for part in written]))
    assert (ids.dtype, label.dtype) == (np.int64, np.int16)
    same, none = ids_and_target(source, None)
    np.testing.assert_array_equal(same, ids)
    assert none is None


def test_a_right_answer_of_several_numbers_a_row_is_left_out() -> None:
    rows = {"x": np.zeros((6, 2)), "y": np.zeros((6, 3)), "z": np.arange(6.0), "id": np.arange(6)}
    source = ArraySource(rows)
    assert ids_and_target(source, "y")[1] is None
    words = np.empty(6, object)
    words[:] = [np.arange(n) for n in range(6)]
    assert ids_and_target(ArraySource({**rows, "y": words}), "y")[1] is None
    ids, target = ids_and_target(source, "z")
    assert ids.tolist() == target.tolist() == list(range(6))


def test_class_names_are_those_of_the_files(tmp_path) -> None:
    field = pa.field("label", pa.int64(), metadata={"classes": '["cat", "dog"]'})
    schema = pa.schema([("x", pa.float32()), field])
    pq.write_table(pa.table([[1.0], [1]], schema=schema), tmp_path / "a.parquet")
    source = ParquetSource(str(tmp_path), data=Data(inputs=("x",)))
    assert class_names(source, "label") == ("cat", "dog")
    assert class_names(source, None) is None
    assert class_names(ArraySource({"x": np.zeros(2)}), "label") is None
