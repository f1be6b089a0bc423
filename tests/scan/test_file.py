"""The file of scores: every row in its place, whole or not there at all."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysb.scan import file as scan_file
from raysb.scan.file import ScoreFile, check_out
from raysb.source.spans import Origin


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def block(start, stop, **more):
    rows = np.arange(start, stop)
    return {"id": rows * 10, "loss": rows.astype(np.float32) / 7, **more}


def origin(*rows):
    return Origin([f"{n}.parquet" for n in range(len(rows))], np.cumsum([0, *rows]))


@pytest.mark.parametrize("group", [1, 4, 7, 10, 1000])
@pytest.mark.parametrize("sizes", [[20], [3] * 6 + [2], [1, 9, 10], [13, 0, 7]])
def test_blocks_of_any_size_become_row_groups_of_one(monkeypatch, group, sizes) -> None:
    monkeypatch.setattr(scan_file, "GROUP_ROWS", group)
    path, start = check_out("scores.parquet"), 0
    with ScoreFile(path, origin(5, 0, 11, 4)) as file:
        for size in sizes:
            file.write(start, block(start, start + size))
            start += size
        assert not path.exists()
        assert file.finish() == path.stat().st_size
    table, written = pq.read_table(path), pq.ParquetFile(path).metadata
    assert [written.row_group(i).num_rows for i in range(written.num_row_groups)] == [
        min(group, 20 - first) for first in range(0, 20, group)
    ]
    assert table["id"].to_pylist() == [10 * row for row in range(20)]
    assert table["loss"].to_numpy().tolist() == (np.arange(20, dtype=np.float32) / 7).tolist()
    assert table["file"].to_pylist() == (["0.parquet"] * 5 + ["2.parquet"] * 11 + ["3.parquet"] * 4)
    assert table["row"].to_pylist() == [*range(5), *range(11), *range(4)]
    assert os.listdir() == ["scores.parquet"]


def test_columns_come_in_one_order_with_their_types() -> None:
    more = {
        "correct": np.array([True, False]),
        "label": np.array([3, 1]),
        "prediction": np.zeros((2, 3), np.float32),
        "entropy": np.ones(2, np.float32),
    }
    with ScoreFile(check_out("a.parquet"), Origin([None], np.array([0, 2]))) as file:
        file.write(0, {**more, **block(0, 2)})
        file.finish()
    schema = pq.read_schema("a.parquet")
    assert dict(zip(schema.names, map(str, schema.types), strict=True)) == {
        "id": "int64",
        "file": "dictionary<values=string, indices=int32, ordered=0>",
        "row": "int64",
        "loss": "float",
        "entropy": "float",
        "prediction": "fixed_size_list<element: float>[3]",
        "label": "int64",
        "correct": "bool",
    }
    assert schema.names == [name for name in scan_file.ORDER if name in schema.names]
    assert pq.read_table("a.parquet")["file"].null_count == 2


def test_rows_that_come_twice_or_not_at_all_are_an_error_and_leave_no_file() -> None:
    for second in (0, 3, 5):
        with ScoreFile(check_out("a.parquet"), origin(8)) as file:
            file.write(0, block(0, 4))
            with pytest.raises(RuntimeError, match=f"row {second} arrived where row 4 is next"):
                file.write(second, block(second, 8))
    assert os.listdir() == []


def test_an_error_leaves_what_was_there_before(monkeypatch) -> None:
    monkeypatch.setattr(scan_file, "GROUP_ROWS", 2)
    Path("a.parquet").write_text("before")

    def interrupted() -> None:
        path = check_out("a.parquet", overwrite=True)
        with ScoreFile(path, origin(8), overwrite=True) as file:
            file.write(0, block(0, 4))
            assert len(os.listdir()) == 2  # the part is beside it, with rows in it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Path("a.parquet").read_text() == "before"
    assert os.listdir() == ["a.parquet"]


def test_overwriting_replaces_the_file_at_the_end() -> None:
    Path("a.parquet").write_text("before")
    with ScoreFile(check_out("a.parquet", overwrite=True), origin(2), overwrite=True) as file:
        file.write(0, block(0, 2))
        assert Path("a.parquet").read_text() == "before"
        file.finish()
    assert pq.read_table("a.parquet").num_rows == 2


def test_a_file_that_has_appeared_meanwhile_is_not_replaced() -> None:
    with ScoreFile(check_out("a.parquet"), origin(2)) as file:
        file.write(0, block(0, 2))
        Path("a.parquet").write_text("somebody else's")
        with pytest.raises(ValueError, match="exists already"):
            file.finish()
    assert Path("a.parquet").read_text() == "somebody else's"
    assert os.listdir() == ["a.parquet"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("there.parquet", "exists already"),
        ("dangling.parquet", "exists already"),
        ("folder", "is a folder"),
        ("", "is a folder"),
        ("nowhere/a.parquet", "no folder"),
        ("there.parquet/a.parquet", "no folder"),
        ("s3://bucket/a.parquet", "local path"),
    ],
)
def test_what_cannot_be_written_is_refused_before(out, message) -> None:
    Path("there.parquet").touch()
    Path("folder").mkdir()
    os.symlink("missing", "dangling.parquet")
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match=message):
        check_out(out)
    assert sorted(os.listdir()) == before


def test_a_folder_without_permission_is_refused(monkeypatch) -> None:
    """Root may write anywhere, so what the system would answer to others is put in its place."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="no permission to write into"):
        check_out("a.parquet")


def test_a_thousand_files_leave_small_dictionaries(monkeypatch) -> None:
    monkeypatch.setattr(scan_file, "GROUP_ROWS", 10)
    with ScoreFile(check_out("a.parquet"), origin(*[2] * 1000)) as file:
        file.write(0, block(0, 2000))
        file.finish()
    table = pq.ParquetFile("a.parquet").read_row_group(7)
    assert pa.table(table)["file"].to_pylist() == [
        f"{n}.parquet" for n in range(35, 40) for _ in (0, 1)
    ]
    assert len(table["file"].combine_chunks().dictionary) == 5


@pytest.mark.parametrize("name", ["a.csv", "a", "a.parquet.gz", ".parquet", "a.PARQUETT"])
def test_a_name_that_is_not_of_parquet_is_refused_and_a_right_one_is_offered(name) -> None:
    """`raysb score --out x.csv` wrote parquet under that name, silently."""
    with pytest.raises(ValueError, match=r"out=.*must end in \.parquet, which is what is written"):
        check_out(name)
    assert check_out("b.parquet", key="x") == Path("b.parquet")
    assert check_out("b.PARQUET") == Path("b.PARQUET")
    assert check_out("a.csv", endings=(".parquet", ".csv")) == Path("a.csv")
    assert os.listdir() == []
