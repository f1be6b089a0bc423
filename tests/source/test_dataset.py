import io
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raysb.errors import DataError
from raysb.schema import Batch, Source
from raysb.source.arrays import ArraySource
from raysb.source.settings import Data
from raysb.source.split import Part, split_by_id

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

NUMBERS = Data(inputs=("x",), shuffle_window=2)


def table(n: int = 60) -> pa.Table:
    ids = np.random.default_rng(0).permutation(n)
    return pa.table({"x": ids * 0.5, "label": ids % 4, "id": ids})


def blocks(columns: pa.Table, count: int = 5) -> Any:
    size = -(-columns.num_rows // count)
    return ray.data.from_arrow([columns[i * size : (i + 1) * size] for i in range(count)])


def opened(dataset: Any, data: Data = NUMBERS, seed: int = 0) -> Any:
    from raysb.source.dataset import DatasetSource

    return DatasetSource(dataset, data=data, seed=seed)


def same(one: Batch, other: Batch) -> bool:
    return sorted(one) == sorted(other) and all(np.array_equal(one[k], other[k]) for k in one)


def test_every_epoch_holds_each_row_of_the_blocks_once() -> None:
    columns = table()
    source = opened(blocks(columns), seed=1)
    natural = source.read(None, 0, 60)
    assert np.array_equal(natural["id"], columns["id"].to_numpy())
    epochs = [source.read(epoch, 0, 60) for epoch in (0, 1)]
    for batch in epochs:
        assert sorted(batch["id"].tolist()) == list(range(60))
        assert np.array_equal(batch["x"], batch["id"] * 0.5)
        assert np.array_equal(batch["label"], batch["id"] % 4)
    assert not np.array_equal(epochs[0]["id"], epochs[1]["id"])
    assert source.size_bytes > 0
    assert source.label_bounds("label") == (0, 3)
    block, row = source.find("label", 3).split(" row ")
    assert natural["label"][int(block.split()[1]) * 12 + int(row)] == 3


def test_rows_without_ids_are_numbered_by_block_and_row() -> None:
    source = opened(blocks(table().drop_columns(["id"])))
    expected = [(block << 40) + row for block in range(5) for row in range(12)]
    assert source.read(None, 0, 60)["id"].tolist() == expected


def test_another_process_reads_the_same_rows() -> None:
    source = opened(blocks(table()), seed=2)

    @ray.remote
    def read(source: Source) -> Batch:
        return source.read(3, 17, 41)

    assert same(ray.get(read.remote(source)), source.read(3, 17, 41))


def test_both_parts_make_up_the_data_set() -> None:
    source = opened(blocks(table()))
    ids = source.read(None, 0, 60)["id"]
    for side in (False, True):
        part = source.restrict(Part(fraction=0.4, held_out=side))
        assert np.array_equal(
            part.read(None, 0, part.num_rows)["id"], ids[split_by_id(ids, 0.4) == side]
        )


def test_pictures_are_decoded_and_tensors_are_plain_arrays() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
    values = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        values.append(stream.getvalue())
    encoded = blocks(pa.table({"image": values, "label": range(20)}), 3)
    tensors = ray.data.from_items([{"image": p, "label": i} for i, p in enumerate(pixels)])
    for dataset in (encoded, tensors):
        batch = opened(dataset, Data()).read(0, 0, 20)
        assert type(batch["image"]) is np.ndarray
        assert np.array_equal(batch["image"], pixels[batch["label"]])


def test_rows_of_many_lengths_are_ragged_also_in_blocks_of_one_length() -> None:
    """Ray stores a block of equal lengths as one tensor; joined with others it was an error."""
    for lengths in ([2] * 30 + [1, 3], [2] * 30 + [3, 3]):
        items = [{"x": np.arange(length), "label": 0} for length in lengths]
        source = opened(ray.data.from_items(items, override_num_blocks=16))
        for start, stop in ((0, 2), (0, 32), (30, 32)):
            found = source.read(None, start, stop)["x"]
            assert found.dtype == object
            assert [len(row) for row in found] == lengths[start:stop]
            assert all(np.array_equal(row, np.arange(len(row))) for row in found)


@pytest.mark.parametrize(
    ("columns", "data", "words"),
    [
        ({"x": [1.0], "lable": [0]}, NUMBERS, "did you mean 'lable'"),
        ({"x": [1.0, 2.0], "label": [0, 1], "id": [4, 4]}, NUMBERS, "block 0 row 0, and block 1"),
        ({"x": [1.0, 2.0], "label": [0, None]}, NUMBERS, "block 1 row 0: no value"),
        ({"image": [b"x"], "label": [0]}, Data(), "block 0 row 0, column 'image'"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    columns: dict[str, Any], data: Data, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        opened(blocks(pa.table(columns), 2), data)


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        opened(ray.data.from_arrow(table()[:0]))


def test_a_data_set_is_opened_by_type() -> None:
    from raysb.source.open import open_sources

    found = open_sources(NUMBERS, seed=0, train=blocks(table()), test=blocks(table(8)))
    assert found.eval is not None
    assert (found.train.num_rows, found.eval.num_rows, found.num_classes) == (60, 8, 4)


def test_shared_arrays_are_read_as_if_they_were_here() -> None:
    from raysb.source.dataset import share

    rng = np.random.default_rng(0)
    columns = {"image": rng.integers(0, 256, (500, 28, 28, 1), np.uint8), "label": np.arange(500)}
    source = ArraySource(columns, seed=5)
    shared = share(source)
    assert shared.num_rows == 500
    assert len(ray.cloudpickle.dumps(shared)) < len(pickle.dumps(source)) / 50

    @ray.remote
    def read(source: Source) -> Batch:
        return source.read(2, 40, 80)

    for batch in (shared.read(2, 40, 80), ray.get(read.remote(shared))):
        assert same(batch, source.read(2, 40, 80))
    assert share(shared) is shared
