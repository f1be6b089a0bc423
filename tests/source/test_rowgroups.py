import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysb.errors import DataError
from raysb.source.rowgroups import open_row_groups
from raysb.source.table import FILE_SHIFT, PLACE

Write = Callable[..., str]


def test_groups_of_all_files_are_loaded_in_order(numbers: Write, tmp_path: Path) -> None:
    paths = [numbers("a.parquet", n=25), numbers("b.parquet", n=7, first=100)]
    groups, _ = open_row_groups(tmp_path, columns=("label",), id_column=None)
    assert groups.rows.tolist() == [10, 10, 5, 7]
    stored = [pa.parquet.read_table(path)["id"].to_numpy() for path in paths]
    loaded = [groups.load(group) for group in range(4)]
    assert np.array_equal(np.concatenate([b["id"] for b in loaded]), np.concatenate(stored))
    assert sorted(loaded[0]) == ["__place__", "id", "label"]
    places = np.concatenate([b[PLACE] for b in loaded])
    assert places.tolist() == [*range(25), *((1 << FILE_SHIFT) + np.arange(7)).tolist()]
    assert groups.place(int(places[-1])) == f"{paths[1]} row 6"


def test_rows_without_an_id_are_named_by_file_and_row(write: Write, tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(name, {"x": np.arange(15), "id": [f"s{i}" for i in range(15)]})
    groups, _ = open_row_groups(tmp_path, columns=("x",), id_column=None)
    ids = np.concatenate([groups.load(group)["id"] for group in range(4)])
    assert ids.tolist() == [*range(15), *((1 << 40) + np.arange(15)).tolist()]


def test_any_integer_type_may_hold_the_ids(write: Write) -> None:
    for kind in (pa.int8(), pa.uint32(), pa.uint64()):
        path = write("x.parquet", {"key": pa.array([3, 1, 2], kind), "x": [1, 2, 3]})
        groups, _ = open_row_groups(path, columns=("x",), id_column="key")
        ids = groups.load(0)["id"]
        assert ids.dtype == np.int64
        assert ids.tolist() == [3, 1, 2]


def test_only_the_wanted_columns_are_read(write: Write) -> None:
    # A column of a type that cannot become numpy is no hindrance as long as nobody asks for it.
    path = write("x.parquet", {"x": [1.0, 2.0], "when": pa.array([0, 1], pa.timestamp("s"))})
    assert open_row_groups(path, columns=("x",), id_column=None)[0].load(0)["x"].tolist() == [1, 2]


def test_a_pickle_is_small_and_reads_the_same(numbers: Write) -> None:
    groups, _ = open_row_groups(numbers(n=2000, group=1000), columns=("x",), id_column=None)
    data = pickle.dumps(groups)
    assert len(data) < 3000
    again = pickle.loads(data).load(1)
    assert np.array_equal(again["x"], groups.load(1)["x"])


def test_duplicate_ids_name_both_rows(write: Write, tmp_path: Path) -> None:
    write("a.parquet", {"x": np.arange(15), "id": np.arange(15)})
    write("b.parquet", {"x": np.arange(15), "id": np.arange(15) + 12})
    groups, _ = open_row_groups(tmp_path, columns=("x",), id_column=None)
    with pytest.raises(DataError) as caught:
        groups.check_ids()
    for words in ("the id 12", f"{tmp_path}/a.parquet row 12", f"{tmp_path}/b.parquet row 0"):
        assert words in str(caught.value)


def test_ids_that_are_no_integers_are_refused(write: Write) -> None:
    path = write("x.parquet", {"key": [0.5, 1.5], "x": [1, 2]})
    groups, _ = open_row_groups(path, columns=("x",), id_column="key")
    with pytest.raises(DataError, match="column 'key': ids must be one integer a row"):
        groups.check_ids()


@pytest.mark.parametrize("column", ["x", "id"])
def test_a_missing_value_names_file_and_row(write: Write, column: str) -> None:
    columns = {"x": list(range(25)), "id": list(range(25))}
    columns[column][17] = None  # type: ignore[call-overload]
    path = write("x.parquet", columns)
    groups, _ = open_row_groups(path, columns=("x",), id_column="id")
    with pytest.raises(DataError, match=rf"x\.parquet row 17: no value in the column '{column}'"):
        groups.load(1)


def test_a_missing_column_names_the_nearest(numbers: Write, write: Write, tmp_path: Path) -> None:
    numbers("a.parquet")
    with pytest.raises(DataError, match="did you mean 'label'"):
        open_row_groups(tmp_path, columns=("lable",), id_column=None)
    with pytest.raises(DataError, match="no column 'key'"):
        open_row_groups(tmp_path, columns=("x",), id_column="key")
    write("b.parquet", {"x": [1.0], "id": [99]})
    with pytest.raises(DataError, match=r"b\.parquet: no column 'label'"):
        open_row_groups(tmp_path, columns=("label",), id_column=None)


def test_different_types_in_two_files_are_refused(write: Write, tmp_path: Path) -> None:
    write("a.parquet", {"x": [1.0], "other": [1]})
    write("b.parquet", {"x": [1], "other": ["a"]})
    with pytest.raises(DataError, match=r"b\.parquet: the column 'x' is of type int64, but .*a\.p"):
        open_row_groups(tmp_path, columns=("x",), id_column=None)


def test_files_without_rows_are_refused_only_together(write: Write, tmp_path: Path) -> None:
    write("a.parquet", {"x": pa.array([], pa.int64())})
    with pytest.raises(DataError, match="no rows"):
        open_row_groups(tmp_path, columns=("x",), id_column=None)
    write("b.parquet", {"x": [1, 2]})
    assert open_row_groups(tmp_path, columns=("x",), id_column=None)[0].rows.sum() == 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x,y\n1,2\n" * 9])
def test_a_file_that_is_not_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.parquet: not a parquet file"):
        open_row_groups(tmp_path, columns=("x",), id_column=None)


def test_a_file_that_changes_under_way_is_named(numbers: Write) -> None:
    path = numbers()
    groups, _ = open_row_groups(path, columns=("x",), id_column=None)
    Path(path).write_bytes(b"gone")
    with pytest.raises(DataError, match=r"numbers\.parquet: row group 2 cannot be read"):
        groups.load(2)
    Path(path).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        groups.load(2)
