import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from raysb.errors import DataError
from raysb.source.parquet import ParquetSource
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.source.split import Part, split_by_id

Write = Callable[..., str]

NUMBERS = Data(inputs=("x",))


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 12), st.data())
def test_pools_of_an_epoch_are_the_table_as_a_multiset(
    numbers: Write, tmp_path: Path, files: list[int], group: int, data: st.DataObject
) -> None:
    paths = [numbers(f"{i}.parquet", n=n, first=100 * i, group=group) for i, n in enumerate(files)]
    window, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 99))
    source = ParquetSource(paths, data=Data(inputs=("x",), shuffle_window=window), seed=seed)
    plan = PoolPlan(num_rows=source.num_rows, pool_rows=data.draw(st.integers(1, 40)), epochs=2)
    stored = pa.concat_tables([pq.read_table(path) for path in paths]).to_pandas()
    for epoch in (0, 1):
        pools = [plan.locate(pool) for pool in range(plan.num_pools)]
        batches = [source.read(*pool) for pool in pools if pool[0] == epoch]
        ids = np.concatenate([batch["id"] for batch in batches])
        table = stored.set_index("id").loc[ids]
        assert sorted(ids.tolist()) == sorted(stored["id"].tolist())
        assert np.array_equal(np.concatenate([b["label"] for b in batches]), table["label"])
        assert np.array_equal(np.concatenate([b["x"] for b in batches]), np.stack(table["x"]))


def test_rows_stay_within_their_window_and_epochs_differ(numbers: Write) -> None:
    source = ParquetSource(
        numbers(n=120, group=10), data=Data(inputs=("x",), shuffle_window=3), seed=1
    )
    natural = source.read(None, 0, 120)["id"]
    group = {int(value): row // 10 for row, value in enumerate(natural)}
    first, second = (source.read(epoch, 0, 120)["id"] for epoch in (0, 1))
    assert not np.array_equal(first, second)
    for start in range(0, 120, 30):
        assert len({group[int(value)] for value in first[start : start + 30]}) == 3


def test_fresh_and_pickled_objects_read_the_same_rows(numbers: Write) -> None:
    path = numbers(n=100)
    source = ParquetSource(path, data=NUMBERS, seed=2)
    expected = source.read(1, 33, 77)
    for other in (ParquetSource(path, data=NUMBERS, seed=2), pickle.loads(pickle.dumps(source))):
        for name, column in other.read(1, 33, 77).items():
            assert np.array_equal(column, expected[name])


def test_a_pickle_holds_paths_and_numbers(numbers: Write) -> None:
    source = ParquetSource(numbers(n=5000, group=2500), data=NUMBERS)
    source.read(0, 0, 5000)
    assert len(pickle.dumps(source)) < 5000


def test_other_file_systems_read_the_same_rows(numbers: Write) -> None:
    path = numbers()
    memory = fsspec.filesystem("memory")
    memory.pipe("/data/x.parquet", Path(path).read_bytes())
    far = ParquetSource("data/*.parquet", data=NUMBERS, filesystem=memory)
    near = ParquetSource(f"file://{path}", data=NUMBERS)
    assert np.array_equal(far.read(0, 0, 37)["id"], near.read(0, 0, 37)["id"])


def test_an_unlabelled_table_needs_no_target(write: Write) -> None:
    source = ParquetSource(write("x.parquet", {"x": [1, 2]}), data=Data(inputs=("x",), target=None))
    assert sorted(source.read(0, 0, 2)) == ["id", "x"]


@pytest.mark.parametrize("name", ["x", "label", "key"])
def test_two_columns_of_one_name_are_refused_by_name(write: Write, name: str) -> None:
    """pyarrow finds neither of the two: a KeyError without the file."""
    names = ["x", "label", "key", name]
    path = write("x.parquet", pa.Table.from_arrays([pa.array(range(4))] * 4, names))
    with pytest.raises(DataError, match=rf"x\.parquet: 2 columns are named '{name}'"):
        ParquetSource(path, data=Data(inputs=("x",), id="key"))
    others = Data(inputs=("x" if name != "x" else "key",), target=None)
    assert ParquetSource(path, data=others).num_rows == 4


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 2)])
def test_the_type_of_a_list_and_not_the_rows_of_a_group_says_whether_it_is_ragged(
    write: Write, kind: pa.DataType
) -> None:
    fixed = pa.types.is_fixed_size_list(kind)
    rows = [[1.0, 2.0]] * 10 + [[3.0, 4.0] if fixed else [3.0]] * 10
    path = write("x.parquet", {"x": pa.array(rows, kind), "label": [0] * 20}, group=10)
    source = ParquetSource(path, data=NUMBERS)
    for start, stop in ((0, 10), (10, 20), (0, 20)):  # alike, alike, both
        found = source.read(None, start, stop)["x"]
        assert found.shape == ((stop - start, 2) if fixed else (stop - start,))
        assert [list(row) for row in found] == rows[start:stop]


@pytest.mark.parametrize("with_id", [True, False])
def test_both_parts_make_up_the_table(numbers: Write, write: Write, with_id: bool) -> None:
    path = numbers(n=200) if with_id else write("x.parquet", {"x": range(200), "label": [0] * 200})
    source = ParquetSource(path, data=NUMBERS, seed=3)
    ids = source.read(None, 0, 200)["id"]
    for side in (False, True):
        part = pickle.loads(pickle.dumps(source.restrict(Part(fraction=0.3, held_out=side))))
        expected = ids[split_by_id(ids, 0.3) == side]
        assert part.num_rows == len(expected)
        assert np.array_equal(part.read(None, 0, part.num_rows)["id"], expected)
        assert sorted(part.read(0, 0, part.num_rows)["id"]) == sorted(expected)


def test_a_part_of_a_part_is_in_both(numbers: Write) -> None:
    outer, inner = Part(fraction=0.5, held_out=False), Part(fraction=0.75, held_out=True)
    source = ParquetSource(numbers(n=200), data=NUMBERS)
    part = source.restrict(outer).restrict(inner)
    ids = source.read(None, 0, 200)["id"]
    assert np.array_equal(
        part.read(None, 0, part.num_rows)["id"], ids[outer.keep(ids) & inner.keep(ids)]
    )


@pytest.mark.parametrize("statistics", [True, False])
def test_label_bounds_are_those_of_the_column(tmp_path: Path, statistics: bool) -> None:
    labels = np.array([3, 5, 9, 4, 8, 6])
    for kind, expected in ((np.int32, (3, 9)), (np.uint8, (3, 9)), (np.float32, None)):
        table = pa.table({"x": labels, "label": labels.astype(kind)})
        pq.write_table(table, tmp_path / "x.parquet", row_group_size=2, write_statistics=statistics)
        source = ParquetSource(tmp_path / "x.parquet", data=NUMBERS)
        assert source.label_bounds("label") == expected
    assert source.find("label", 8).endswith("x.parquet row 4")


@pytest.mark.parametrize("statistics", [True, False])
def test_a_missing_label_is_named_at_once(tmp_path: Path, statistics: bool) -> None:
    # Far behind the first rows, which are read in any case.
    table = pa.table({"x": range(200), "label": [0] * 141 + [None] + [0] * 58})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10, write_statistics=statistics)
    with pytest.raises(DataError, match=r"x\.parquet row 141: no value in the column 'label'"):
        ParquetSource(tmp_path / "x.parquet", data=NUMBERS)


def images(n: int = 25) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3), np.uint8)


def stored_as(kind: str, pixels: np.ndarray) -> tuple[Any, dict[str, str]]:
    if kind == "png":
        return [png(p) for p in pixels], {}
    if kind == "struct":
        return [{"bytes": png(p), "path": f"{i}.png"} for i, p in enumerate(pixels)], {}
    if kind == "raw":
        return [p.tobytes() for p in pixels], {"shape": "[6, 5, 3]", "encoding": "raw"}
    flat = pa.array(pixels.ravel())
    if kind == "list":
        return pa.FixedSizeListArray.from_arrays(flat, 90), {"shape": "[6, 5, 3]"}
    return pa.FixedShapeTensorArray.from_numpy_ndarray(pixels), {}


@pytest.mark.parametrize("kind", ["png", "struct", "raw", "list", "tensor"])
def test_every_way_of_storing_pictures_gives_the_same_pixels(write: Write, kind: str) -> None:
    pixels = images()
    column, metadata = stored_as(kind, pixels)
    columns = {"image": column, "label": range(25)}
    source = ParquetSource(write("x.parquet", columns, metadata=metadata), data=Data())
    for epoch in (None, 0, 1):
        batch = source.read(epoch, 3, 25)
        assert batch["image"].dtype == np.uint8
        assert np.array_equal(batch["image"], pixels[batch["label"]])
        assert batch["image"].flags.writeable


def test_raw_pictures_take_their_shape_from_the_settings(write: Write) -> None:
    pixels = images()
    path = write("x.parquet", {"image": [p.tobytes() for p in pixels], "label": range(25)})
    source = ParquetSource(path, data=Data(image_size=(6, 5)))
    assert np.array_equal(source.read(None, 0, 25)["image"], pixels)
    with pytest.raises(DataError, match=r"x\.parquet row 0, column 'image': 90 bytes.*image_size"):
        ParquetSource(path, data=Data())


def test_a_damaged_picture_names_file_and_row_when_it_is_read(write: Write) -> None:
    values = [png(p) for p in images(100)]
    values[87] = b"\x89PNG\r\n\x1a\n" + b"garbage"
    source = ParquetSource(write("x.parquet", {"image": values, "label": range(100)}), data=Data())
    with pytest.raises(DataError, match=r"x\.parquet row 87, column 'image'"):
        source.read(0, 0, 100)


def test_mixed_shapes_name_file_row_and_both_shapes(write: Write) -> None:
    values = [png(p) for p in images(20)]
    values[11] = png(np.zeros((9, 9, 3), np.uint8))
    path = write("x.parquet", {"image": values, "label": range(20)})
    with pytest.raises(DataError, match=r"row 11.*\[9, 9, 3\].*\[6, 5, 3\].*data\.image_size"):
        ParquetSource(path, data=Data()).read(None, 0, 20)
    assert ParquetSource(path, data=Data(image_size=(4, 4))).read(None, 0, 20)["image"].shape == (
        (20, 4, 4, 3)
    )


def test_somebody_elses_metadata_is_passed_over(write: Write) -> None:
    columns = {"x": [1, 2], "label": [0, 1]}
    for shape in ("nonsense", "7", "{}", "[[1], [2]]"):
        path = write("x.parquet", columns, metadata={"shape": shape})
        assert ParquetSource(path, data=NUMBERS).num_rows == 2
