"""Rows in, batches of exactly B rows out: each row once, in order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysb.schema import ID, WEIGHT, Batch, num_rows
from raysb.selection.batcher import Batcher


def block(start: int, size: int) -> Batch:
    ids = np.arange(start, start + size)
    return {ID: ids, "x": np.stack([ids, ids], 1).astype(np.uint8), WEIGHT: np.full(size, 2, "f4")}


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=25),
)
def test_every_row_comes_out_once_in_order_in_batches_of_exactly_b(size, actions) -> None:
    batcher, pushed, out = Batcher(size), 0, []
    for rows, pops in actions:
        batcher.push(block(pushed, rows))
        pushed += rows
        for _ in range(pops):
            batch = batcher.pop()
            assert (batch is None) == (pushed - len(out) < size)
            if batch is not None:
                assert num_rows(batch) == size
                out += batch[ID].tolist()
        assert batcher.rows == pushed - len(out)
    while (batch := batcher.pop()) is not None:
        out += batch[ID].tolist()
    if batcher.seen:
        batch, true = batcher.flush()
        assert num_rows(batch) == size
        out += batch[ID][:true].tolist()
        assert batcher.flush()[1] == 0
    assert out == list(range(pushed))


def test_the_last_batch_is_padded_with_copies_of_its_first_row_of_weight_zero() -> None:
    batcher = Batcher(4)
    pushed = block(7, 2)
    batcher.push(pushed)
    batch, true = batcher.flush()
    assert true == 2
    assert batch[ID].tolist() == [7, 8, -1, -1]
    assert batch[WEIGHT].tolist() == [2, 2, 0, 0]
    assert batch["x"].tolist() == [[7, 7], [8, 8], [7, 7], [7, 7]]
    assert {k: v.dtype for k, v in batch.items()} == {k: v.dtype for k, v in pushed.items()}
    assert pushed[WEIGHT].tolist() == [2, 2]


def test_a_rank_without_rows_pads_with_the_last_row_it_saw_or_with_a_template() -> None:
    batcher = Batcher(2)
    assert not batcher.seen
    with pytest.raises(ValueError, match="no row was ever pushed"):
        batcher.flush()
    batch, true = batcher.flush(template=block(3, 1))
    assert (true, batch[ID].tolist(), batch[WEIGHT].tolist()) == (0, [-1, -1], [0, 0])
    batcher.push(block(0, 2))
    batcher.push(block(0, 0))
    assert batcher.pop() is not None
    for _ in range(3):  # as often as the other ranks go on
        batch, true = batcher.flush()
        assert (true, batch[ID].tolist(), batch[WEIGHT].tolist()) == (0, [-1, -1], [0, 0])
        assert batch["x"].shape == (2, 2)


def test_without_padding_the_rest_is_given_as_it_is() -> None:
    batcher = Batcher(4)
    assert batcher.flush(padded=False) == ({}, 0)
    batcher.push(block(0, 3))
    batch, true = batcher.flush(padded=False)
    assert (true, batch[ID].tolist()) == (3, [0, 1, 2])
    batch, true = batcher.flush(padded=False)
    assert (true, batch["x"].shape) == (0, (0, 2))


def test_a_batch_within_one_block_is_a_view() -> None:
    batcher, pushed = Batcher(4), block(0, 10)
    batcher.push(pushed)
    for _ in range(2):
        batch = batcher.pop()
        assert batch is not None
        assert np.shares_memory(batch["x"], pushed["x"])


def test_blocks_with_other_columns_are_refused() -> None:
    batcher = Batcher(4)
    batcher.push(block(0, 1))
    with pytest.raises(ValueError, match="same columns"):
        batcher.push({ID: np.arange(2)})
    with pytest.raises(ValueError, match=r"batch_size=0"):
        Batcher(0)
