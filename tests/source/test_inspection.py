"""What is found in parquet: the right counts, and problems where they were put, nowhere else."""

import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from raysb.errors import DataError
from raysb.source.classes import with_classes
from raysb.source.demo import DEMOS
from raysb.source.inspection import find_roles, inspect
from raysb.source.problems import READER_BYTES, classes_in_a_window


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pictures(count, size=(8, 8), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, np.uint8) for _ in range(count)]


@pytest.fixture
def table(tmp_path):
    """Write columns, 50 rows a group; gives the path."""

    def table(columns, *, group=50, name="data.parquet", fields=None):
        made = pa.table(columns)
        if fields is not None:
            made = made.cast(pa.schema(fields))
        pq.write_table(made, tmp_path / name, row_group_size=group)
        return tmp_path / name

    return table


def good(count=400, **more):
    images = pictures(count)
    labels = np.random.default_rng(1).integers(0, 4, count)
    ids = np.arange(count)
    return images, {"id": ids, "image": [png(p) for p in images], "label": labels, **more}


def test_a_good_file_has_no_problems_and_its_numbers_are_right(table):
    images, columns = good()
    found = inspect(path := table(columns))
    assert found.problems == []
    assert (found.num_rows, found.num_files, found.num_groups) == (400, 1, 8)
    assert found.rows_per_group == (50, 50, 50)
    assert found.num_bytes == path.stat().st_size
    counts = np.bincount(columns["label"]).tolist()
    assert found.class_counts == dict(enumerate(counts))
    assert found.pictures.sizes == [(8, 8, 400)]
    assert found.pictures.formats == {"PNG": 400}
    stacked = np.stack(images) / 255.0
    assert found.training.mean == pytest.approx([stacked.mean()])
    assert found.training.std == pytest.approx([stacked.std()])
    assert found.training.num_classes == 4
    assert {c.name: c.role for c in found.columns} == {
        "id": "id",
        "image": "input",
        "label": "target",
    }
    assert found.command == f"raysb train --data.train {path} --data.test_fraction 0.1"
    json.dumps(dataclasses.asdict(found))


def problem_of(path):
    [problem] = inspect(path).problems
    return problem


def test_rows_sorted_by_class_are_found(table):
    _, columns = good()
    columns["label"] = np.sort(np.arange(400) % 20)
    assert "4 row groups, which are shuffled together, hold" in problem_of(table(columns, group=40))
    columns["label"] = np.arange(400) % 20
    assert inspect(table(columns, group=40)).problems == []


def test_classes_in_a_window_are_those_of_random_windows():
    """The closed form against windows drawn at random: 20 groups of few classes each."""
    rng = np.random.default_rng(0)
    labels = [rng.choice(10, size=rng.integers(1, 4), replace=False) for _ in range(20)]
    counts = [dict.fromkeys(map(int, each), 5) for each in labels]
    drawn = []
    for _ in range(4_000):
        chosen = rng.choice(20, 4, replace=False)
        drawn.append(len(set().union(*(counts[i] for i in chosen))))
    found, expected = classes_in_a_window(counts)
    assert found == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / 4_000**0.5)
    assert found < expected <= 10


def test_ids_that_are_missing_or_double_are_found(table):
    _, columns = good()
    without = {name: column for name, column in columns.items() if name != "id"}
    assert "no integer column `id`" in problem_of(table(without))
    columns["id"] = np.where(np.arange(400) == 300, 7, np.arange(400))
    problems = inspect(table(columns)).problems
    assert "the id 7 names two rows, 7 and 300" in problems[0]


def test_missing_values_are_found(table):
    _, columns = good()
    columns["label"] = [None if i < 3 else int(i % 4) for i in range(400)]
    problems = inspect(table(columns)).problems
    assert "3 rows have no value in the column 'label'" in problems[0]


def test_pictures_of_several_sizes_get_an_image_size_that_trains(table):
    _, columns = good()
    columns["image"] = [png(p) for p in pictures(300, (20, 30)) + pictures(100, (40, 50))]
    found = inspect(table(columns))
    assert "2 sizes among 400 pictures" in found.problems[0]
    assert found.pictures.image_size == (16, 24, 1)
    assert "--data.image_size 16,24,1" in found.command
    assert found.training.shapes["image"] == (16, 24, 1)


def test_damaged_pictures_are_named(table):
    _, columns = good()
    columns["image"][60] = b"\x89PNG\r\n\x1a\nnothing"
    problems = inspect(table(columns)).problems
    assert "data.parquet row 60: " in problems[0]


def test_large_row_groups_are_named_with_what_a_reader_holds(table, monkeypatch):
    monkeypatch.setattr("raysb.source.problems.READER_BYTES", 300_000)
    rng = np.random.default_rng(0)
    columns = {"id": np.arange(64), "label": np.arange(64) % 2}
    columns["image"] = [rng.bytes(10_000) for _ in range(64)]
    fields = [
        pa.field("id", pa.int64()),
        pa.field("label", pa.int64()),
        pa.field("image", pa.binary(), metadata={"shape": "[100, 100]", "encoding": "raw"}),
    ]
    found = inspect(table(columns, group=32, fields=fields))
    assert any("each reader holds two windows" in each for each in found.problems)
    assert found.training.shapes["image"] == (100, 100, 1)
    assert READER_BYTES == 1_000_000_000


def test_row_groups_of_few_rows_are_named(table):
    _, columns = good()
    assert "row groups of 8 rows" in problem_of(table(columns, group=8))


def test_lists_of_numbers_are_an_input_and_floats_a_regression(table):
    x = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(300, dtype=np.float32)), 3)
    found = inspect(path := table({"id": np.arange(100), "x": x, "y": np.linspace(0, 1, 100)}))
    assert found.problems == []
    assert found.class_counts is None
    assert found.command == (
        f"raysb train --data.train {path} --data.inputs x --data.target y "
        "--data.test_fraction 0.1 --model.name mlp --train.loss mse"
    )


def test_columns_of_single_numbers_are_no_input_and_the_remedy_is_said(table):
    found = inspect(table({"id": np.arange(100), "a": np.arange(100.0), "b": np.arange(100.0)}))
    assert found.command is None
    assert "--features all`" in found.problems[0]
    assert found.problems[0].endswith("data.inputs=a,b")


@pytest.mark.parametrize(("target", "apart"), [("label", ""), ("target", " --label-column target")])
def test_the_target_is_no_input_of_what_is_advised(table, target, apart):
    numbers = {name: np.arange(100.0) for name in "abc"}
    flags = {"seen": np.arange(100) % 3 == 0}
    answers = {target: np.arange(100) % 2}
    found = inspect(table({"id": np.arange(100), **answers, **numbers, **flags}))
    assert f"--features all{apart}`" in found.problems[0]
    assert found.problems[0].endswith("data.inputs=a,b,c")
    found = inspect(table({**answers, **numbers, "d": np.arange(100), "e": np.arange(100.0)}))
    assert found.problems[-1].endswith("data.inputs=a,b,c,...")


@pytest.mark.parametrize("name", sorted(DEMOS))
def test_a_demo_set_is_inspected_by_its_name(name):
    found = inspect(name)
    rows = {"digits": 1797, "mnist5k": 5000}[name]
    assert (found.path, found.num_rows, found.num_files, found.problems) == (name, rows, 0, [])
    assert found.command == f"raysb train --data.train {name}"
    assert found.training.num_classes == 10
    if name == "digits":
        digits = load_digits()
        assert found.class_counts == dict(enumerate(np.bincount(digits.target).tolist()))
        assert found.training.shapes["image"] == (8, 8, 1)
        assert found.training.mean == pytest.approx([digits.data.mean() / 16], rel=0.02)
    assert [(c.name, c.role) for c in found.columns if c.role] == [
        ("image", "input"),
        ("label", "target"),
        ("id", "id"),
    ]
    json.dumps(dataclasses.asdict(found))


def test_names_of_classes_are_read_from_the_file(table):
    _, columns = good()
    label = with_classes(pa.field("label", pa.int64()), ("a", "b", "c", "d", "none has it"))
    fields = [pa.field("id", pa.int64()), pa.field("image", pa.binary()), label]
    found = inspect(table(columns, fields=fields))
    assert found.class_names == ("a", "b", "c", "d", "none has it")
    assert found.problems == []


def test_labels_that_are_no_classes_are_found(table):
    _, columns = good()
    columns["label"] = np.arange(400) % 4 - 1
    problems = inspect(table(columns)).problems
    assert "below 0" in problems[0]
    columns["label"] = np.zeros(400, np.int64)
    assert "nothing to tell apart" in problem_of(table(columns))


def test_roles_follow_names_then_types():
    schema = pa.schema(
        [
            ("loss", pa.float32()),
            ("thing", pa.binary()),
            ("image", pa.binary()),
            ("count", pa.int64()),
            ("target", pa.int64()),
        ]
    )
    assert find_roles(schema) == {"target": "target", "image": "input"}
    assert find_roles(pa.schema([("a", pa.int32()), ("b", pa.binary())])) == {
        "a": "target",
        "b": "input",
    }


def test_what_is_no_parquet_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_text("x")
    with pytest.raises(DataError, match="not a parquet file"):
        inspect(tmp_path / "a.parquet")
    with pytest.raises(FileNotFoundError):
        inspect(tmp_path / "none")
