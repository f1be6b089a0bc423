import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from raysb.errors import DataError
from raysb.schema import Batch, Source
from raysb.source.open import Sources, check_classes, open_sources
from raysb.source.settings import Data
from raysb.source.split import split_by_id

Write = Callable[..., str]

NUMBERS = Data(inputs=("x",))
_ONE = pa.list_(pa.int64(), 1)


def ids(source: Source | None) -> list[int]:
    assert source is not None
    return [int(i) for i in source.read(None, 0, source.num_rows)["id"]]


def opened(x: Any = None, y: Any = None, data: Data = NUMBERS, **how: Any) -> Sources:
    x = np.arange(12.0).reshape(6, 2) if x is None else x
    y = np.array([0, 1, 2, 0, 1, 2]) if y is None else y
    return open_sources(data, seed=0, train={"x": x, "label": y}, **how)


def test_the_demo_digits_come_with_their_held_out_rows() -> None:
    found = open_sources(Data(train="digits"), seed=3)
    train, test = ids(found.train), ids(found.eval)
    assert sorted(train + test) == list(range(1797))
    assert 350 < len(test) <= 1797 // 5
    assert (found.num_classes, found.shapes) == (10, {"image": (8, 8, 1), "label": ()})
    assert found.mean is not None
    assert found.std is not None
    assert ids(open_sources(Data(train="digits"), seed=4).eval) == test
    by_name = open_sources(Data(train="digits", test="digits"), seed=3)
    assert (ids(by_name.train), ids(by_name.eval)) == (train, test)


def test_a_fraction_of_a_demo_is_held_out_by_id() -> None:
    found = open_sources(Data(train="digits", test_fraction=0.5), seed=0)
    assert ids(found.eval) == np.flatnonzero(split_by_id(np.arange(1797), 0.5)).tolist()
    assert sorted(ids(found.train) + ids(found.eval)) == list(range(1797))


def test_parquet_by_name_or_path_with_a_test_set(numbers: Write) -> None:
    train, test = numbers("a.parquet"), numbers("b.parquet", first=100)
    by_name = open_sources(Data(inputs=("x",), train=train, test=test), seed=0)
    by_path = open_sources(NUMBERS, seed=0, train=[Path(train)], test=Path(test))
    for found in (by_name, by_path):
        assert sorted(ids(found.train)) == list(range(37))
        assert sorted(ids(found.eval)) == list(range(100, 137))
        assert (found.num_classes, found.shapes) == (4, {"x": (3,), "label": ()})
        assert (found.mean, found.std) == (None, None)


def test_parquet_without_a_test_set_is_split_by_fraction(numbers: Write) -> None:
    path = numbers()
    assert open_sources(NUMBERS, seed=0, train=path).eval is None
    found = open_sources(Data(inputs=("x",), test_fraction=0.3), seed=0, train=path)
    held = np.flatnonzero(split_by_id(np.arange(37), 0.3)).tolist()
    assert sorted(ids(found.eval)) == held
    assert sorted(ids(found.train) + held) == list(range(37))


def test_arrays_tensors_and_pairs_are_taken() -> None:
    x, y = np.arange(6.0)[:, None], np.array([0, 1, 2, 0, 1, 2])
    for train in ({"x": x, "label": y}, (x, y), (torch.tensor(x), torch.tensor(y))):
        found = open_sources(NUMBERS, seed=0, train=train, test=train)
        assert np.array_equal(found.train.read(None, 0, 6)["x"], x)
        assert (found.num_classes, ids(found.eval)) == (3, list(range(6)))


def test_images_in_arrays_get_their_channel_and_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    found = open_sources(Data(), seed=0, train=(pixels, np.arange(4)))
    assert found.shapes["image"] == (8, 8, 1)
    assert np.array_equal(found.train.read(None, 0, 4)["image"][..., 0], pixels)
    assert found.mean == pytest.approx([pixels.mean() / 255])
    resized = open_sources(Data(image_size=(4, 4)), seed=0, train=(pixels, np.arange(4)))
    assert resized.shapes["image"] == (4, 4, 1)


def test_mean_and_std_may_be_given() -> None:
    pixels, data = np.zeros((4, 8, 8, 3), np.uint8), Data(mean=(0.1,) * 3, std=(0.2,) * 3)
    assert open_sources(data, seed=0, train=(pixels, np.arange(4))).mean == (0.1, 0.1, 0.1)
    with pytest.raises(ValueError, match="1 numbers for the 3 channels"):
        open_sources(Data(mean=(0.1,), std=(0.2,)), seed=0, train=(pixels, np.arange(4)))


class Own:
    """A source of the user's own, with nothing but the protocol."""

    num_rows = 5

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        rows = np.arange(start, stop)
        return {"x": rows.astype(np.float32), "label": rows % 2, "id": rows}


def test_any_object_with_the_protocol_is_taken_as_it_is() -> None:
    own = Own()
    found = open_sources(NUMBERS, seed=0, train=own, test=own, num_classes=2)
    assert found.train is own
    assert found.eval is own
    assert found.num_classes == 2
    with pytest.raises(TypeError, match="Give a test set of its own"):
        open_sources(Data(inputs=("x",), test_fraction=0.1), seed=0, train=own)


def wrapped(rows: list[int]) -> list[tuple[str, Any]]:
    lists = np.empty(len(rows), object)
    lists[:] = [np.array([row]) for row in rows]
    return [("array", np.array(rows)[:, None]), ("lists", lists)]


@pytest.mark.parametrize(("kind", "target"), wrapped([0, 1, 2, 0, 1, 2]))
def test_a_label_inside_a_list_is_refused_with_the_remedy(
    write: Write, kind: str, target: Any
) -> None:
    """It had no number of classes, and failed far later in the loss."""
    with pytest.raises(DataError, match=r"data\.train: the target 'label' .* array\.reshape\(-1\)"):
        opened(y=target)
    column = pa.array(list(target)) if kind == "lists" else pa.array(target.tolist(), _ONE)
    path = write("x.parquet", {"x": np.arange(6.0), "label": column})
    with pytest.raises(DataError, match="the target 'label' holds one number a row inside a list"):
        open_sources(NUMBERS, seed=0, train=path)
    flat = pc.list_flatten(column)  # the remedy that is named
    found = open_sources(NUMBERS, seed=0, train=write("y.parquet", {"x": range(6), "label": flat}))
    assert found.num_classes == 3


def test_values_of_shape_n_1_are_targets_of_a_regression_and_tokens_may_be_few() -> None:
    assert opened(y=np.ones((6, 1))).shapes["label"] == (1,)
    assert opened(y=np.ones((6, 1), int), labels=False).shapes["label"] == (1,)
    tokens = np.empty(6, object)
    tokens[:] = [np.arange(1 + i % 2) for i in range(6)]
    assert opened(y=tokens).shapes["label"] == ()


def test_targets_that_are_no_classes_have_no_number_of_classes() -> None:
    assert opened(y=np.arange(6) / 2).num_classes is None
    assert opened(y=np.ones((6, 3))).num_classes is None
    unlabelled = open_sources(Data(inputs=("x",), target=None), seed=0, train={"x": np.arange(6.0)})
    assert unlabelled.num_classes is None


def test_labels_outside_the_classes_name_their_row() -> None:
    with pytest.raises(DataError, match=r"data\.train: row 4: the label 2 .* classes 0 to 1"):
        opened(y=np.array([0, 1, 0, 1, 2, 0]), num_classes=2)
    with pytest.raises(DataError, match=r"row 1: the label -1"):
        opened(y=np.array([0, -1, 0, 1, 2, 0]))
    with pytest.raises(DataError, match=r"data\.test: row 0: the label 7 .* classes 0 to 2"):
        opened(test=(np.zeros((1, 2)), np.array([7])))


def test_labels_are_checked_against_a_models_outputs_where_a_source_knows_them(
    numbers: Write,
) -> None:
    found = open_sources(NUMBERS, seed=0, train=numbers())
    check_classes(found.train, "label", 4)
    check_classes(found.train, "x", 1)
    check_classes(Own(), "label", 1)
    with pytest.raises(DataError, match=r"numbers\.parquet row \d+: the label 3 .* 0 to 2"):
        check_classes(found.train, "label", 3)


def test_labels_outside_the_classes_name_their_file(numbers: Write) -> None:
    with pytest.raises(DataError, match=r"numbers\.parquet row \d+: the label 3"):
        open_sources(NUMBERS, seed=0, train=numbers(), num_classes=3)


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"train": "mnist5"}, FileNotFoundError, "mnist5k"),
        ({"train": 3}, TypeError, "data.train=int"),
        ({"train": []}, TypeError, "data.train=list"),
        ({"train": {"y": [1], "label": [0]}}, DataError, "no column 'x'"),
        ({"train": {"x": [1], "lable": [0]}}, DataError, "did you mean 'lable'"),
        ({"train": {"x": [], "label": []}}, DataError, "no rows"),
        ({"train": {"x": [1, 2], "label": ["cat", "dog"]}}, DataError, "holds 'cat'"),
        ({"train": {"x": [1, 2], "label": [0, 1], "id": [5, 5]}}, DataError, "the id 5"),
        ({"train": ([1, 2], [0, 1]), "test": ([[1, 2]], [0])}, DataError, "have shape [2]"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    how: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        open_sources(NUMBERS, seed=0, **how)
    assert words in str(caught.value)


def test_a_fraction_that_leaves_a_side_empty_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.test_fraction=1e-09: .* test set"):
        opened(data=Data(inputs=("x",), test_fraction=1e-9))


def test_opening_rows_loads_neither_torch_nor_ray() -> None:
    code = "import sys, raysb.source.open; sys.exit('ray' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
