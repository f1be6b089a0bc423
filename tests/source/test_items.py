"""Rows of a map-style data set: every pool has columns of the same type and shape."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.train import RunConfig
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from raysb.errors import DataError
from raysb.losses import cross_entropy
from raysb.seeding import generator
from raysb.source.items import ItemSource
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.trainer import SelectiveTrainer
from raysb.training.settings import Training


class Items(Dataset[Any]):
    """A data set whose items a function makes of their number."""

    def __init__(self, count: int, item: Any) -> None:
        self.count, self.item = count, item

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        return self.item(i)


def lists_in_runs(i: int) -> dict[str, Any]:
    """Runs of ten items have lists of one length: a pool of ten would look like an array."""
    return {"x": [i] * (1 + i // 10), "label": i % 3}


def test_an_epoch_reads_the_items_in_the_order_of_the_seed_and_numbers_are_the_ids() -> None:
    source = ItemSource(Items(50, lambda i: (torch.tensor([i, 2 * i]), i % 3)), ("x", "y"), seed=4)
    order = generator(4, "order", 3).permutation(50)
    batch = source.read(3, 10, 30)
    np.testing.assert_array_equal(batch["id"], order[10:30])
    np.testing.assert_array_equal(batch["x"], np.stack([order, 2 * order], 1)[10:30])
    again = pickle.loads(pickle.dumps(ItemSource(TensorDataset(torch.arange(50)), ("x",), seed=4)))
    np.testing.assert_array_equal(again.read(3, 10, 30)["x"], order[10:30])


@pytest.mark.parametrize("tensors", [False, True])
def test_a_ragged_column_is_ragged_in_every_pool(tensors: bool) -> None:
    """Each pool decided for itself: one of rows of equal length gave [n, k] among object [n]."""

    def item(i: int) -> dict[str, Any]:
        row = lists_in_runs(i)
        return row | {"x": torch.tensor(row["x"])} if tensors else row

    source = ItemSource(Items(100, item), ())
    pools = [source.read(None, start, start + 10) for start in range(0, 100, 10)]
    assert {pool["x"].dtype for pool in pools} == {np.dtype(object)}
    kinds = {pa.array(list(pool["x"])).type for pool in pools}  # as they go to Ray Data
    assert kinds == {pa.list_(pa.int64())}
    assert [len(row) for row in source.read(None, 95, 96)["x"]] == [10]


def test_lists_are_ragged_also_where_all_have_one_length() -> None:
    """Texts cut at a length: the first that is shorter may come hours later."""
    source = ItemSource(Items(100, lambda i: {"x": [1, 2, 3] if i < 90 else [1]}), ())
    assert source.read(None, 0, 5)["x"].dtype == object
    assert source.read(None, 90, 95)["x"].dtype == object


def test_an_empty_list_has_the_type_of_the_others() -> None:
    source = ItemSource(Items(8, lambda i: {"x": [1] * (i % 2)}), ())
    assert {row.dtype for row in source.read(None, 0, 8)["x"]} == {np.dtype(np.int64)}


def test_numbers_have_one_type_in_every_pool() -> None:
    """1 and 1.5 of Python are of two types, and a pool of the former had another than the rest."""
    source = ItemSource(Items(80, lambda i: {"x": 1 if i % 8 else 1.5, "s": "ab"[i % 2]}), ())
    assert source.read(None, 1, 5)["x"].dtype == np.float64
    assert source.read(None, 0, 3)["s"].tolist() == ["a", "b", "a"]
    empty = source.read(None, 5, 5)
    assert (empty["x"].dtype, empty["x"].shape, len(empty["id"])) == (np.float64, (0,), 0)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        (np.zeros(4, np.float32), r"item 70: the column 'x' is float32 \[4\], .* float32 \[3\]"),
        (np.zeros(3, complex), r"item 70: the column 'x' is complex128 \[3\]"),
        ("text", r"item 70: the column 'x' is <U4 \[\].*lists, which are always taken as ragged"),
    ],
)
def test_an_item_that_does_not_fit_the_first_ones_is_named(later: Any, said: str) -> None:
    first = np.zeros(3, np.float32)
    source = ItemSource(Items(80, lambda i: {"x": later if i == 70 else first}), ())
    source.read(None, 0, 70)
    with pytest.raises(DataError, match=said):
        source.read(None, 65, 75)


def test_items_with_other_columns_are_named() -> None:
    source = ItemSource(Items(80, lambda i: {"x": 1} if i < 70 else {"z": 1}), ())
    with pytest.raises(DataError, match=r"item 70 has the columns \['z'\], another \['x'\]"):
        source.read(None, 70, 71)


# --- through open_sources -------------------------------------------------------------------------


def test_a_data_set_of_torch_is_opened_for_training_and_for_testing() -> None:
    rows = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2)
    data = Data(inputs=("x",))
    found = open_sources(data, seed=0, train=Subset(rows, [0, 1, 2, 3]), test=Subset(rows, [4, 5]))
    assert found.eval is not None
    assert (found.train.num_rows, found.eval.num_rows) == (4, 2)
    np.testing.assert_array_equal(found.eval.read(None, 0, 2)["x"], [[8, 9], [10, 11]])
    assert found.shapes == {"x": (2,), "label": ()}


class Endless(IterableDataset[Any]):
    """Has no numbers of rows, though it says how many there are."""

    def __iter__(self) -> Any:
        yield from ()

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (Endless(), TypeError, "data.train=Endless: an IterableDataset has no row numbers"),
        (np.zeros((4, 2)), TypeError, "data.train=ndarray: rows cannot be read from this"),
        (Items(0, None), DataError, "Items has no items"),
        (Items(3, lambda i: (i, i, i)), DataError, "item 0 has 3 values for the columns x, label"),
        (Items(3, lambda i: {"x": i, "label": 0, "weight": 1}), DataError, "the column 'weight'"),
    ],
)
def test_what_is_no_data_set_of_items_is_refused(given: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        open_sources(Data(inputs=("x",)), seed=0, train=given)


def test_the_trainer_takes_a_data_set_of_torch_and_trains_as_with_the_arrays(tmp_path) -> None:
    x = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    label = np.arange(90) % 3
    reached = []
    for train in ({"x": x, "label": label}, TensorDataset(*map(torch.from_numpy, (x, label)))):
        trainer = SelectiveTrainer(
            model=partial(torch.nn.Linear, 4, 3),
            loss=cross_entropy("label"),
            datasets={"train": train},
            data=Data(inputs=("x",)),
            training=Training(epochs=2, batch_size=16),
            run_config=RunConfig(storage_path=str(tmp_path), name=f"run-{len(reached)}"),
            engine="local",
        )
        reached.append((Path(trainer.fit().path) / "model.safetensors").read_bytes())
    assert reached[0] == reached[1]
