"""A pool in, its selected rows out, with what is known about them."""

import numpy as np
import pytest

from raysb.schema import CORRECT, ID, LOSS, POOL, PROBABILITY, WEIGHT, WEIGHTS_STEP
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop, select_pool

EMPTY = np.zeros(0, np.float32)


def test_selected_rows_keep_all_their_columns_and_gain_those_of_selection() -> None:
    draw = np.random.default_rng(0)
    pool = {
        ID: draw.permutation(1000)[:64],
        POOL: np.full(64, 3),
        "image": draw.integers(0, 255, (64, 2, 2), np.uint8),
        "text": np.array([f"row {i}" for i in range(64)], object),
    }
    losses = draw.exponential(size=64).astype(np.float32)
    correct = (losses < 1).astype(np.uint8)
    batch, selected, *_ = select_pool(
        SelectiveBackprop(),
        pool,
        losses,
        correct=correct,
        window=EMPTY,
        draws=Draws(seed=2),
        weights_step=41,
    )
    assert 0 < selected.sum() < 64
    for name, column in pool.items():
        assert batch[name].tolist() == column[selected].tolist()
        assert batch[name].dtype == column.dtype
    assert batch[LOSS].tolist() == losses[selected].tolist()
    assert batch[CORRECT].tolist() == correct[selected].tolist()
    assert {name: batch[name].dtype for name in batch.keys() - pool.keys()} == {
        LOSS: np.float32,
        CORRECT: np.uint8,
        WEIGHTS_STEP: np.int64,
        PROBABILITY: np.float32,
        WEIGHT: np.float32,
    }
    ranks = [((losses < x).sum() + 0.5) / 64 for x in losses[selected]]
    np.testing.assert_allclose(batch[PROBABILITY], ranks, rtol=1e-6)
    assert set(batch[WEIGHTS_STEP].tolist()) == {41}
    assert CORRECT not in pool


@pytest.mark.parametrize("losses", [[], [np.nan, np.inf]])
def test_a_pool_without_a_usable_row_gives_a_batch_without_rows(losses) -> None:
    pool = {ID: np.arange(len(losses)), "x": np.zeros((len(losses), 2), np.uint8)}
    batch, selected, nonfinite, _ = select_pool(
        SelectiveBackprop(),
        pool,
        np.array(losses, np.float32),
        window=EMPTY,
        draws=Draws(),
        weights_step=0,
    )
    assert batch["x"].shape == (0, 2)
    assert batch[WEIGHT].shape == batch[PROBABILITY].shape == (0,)
    assert selected.tolist() == [False] * len(losses)
    assert nonfinite.tolist() == list(range(len(losses)))


def test_losses_of_another_pool_are_refused() -> None:
    with pytest.raises(ValueError, match="3 losses for 2 rows"):
        select_pool(
            SelectiveBackprop(),
            {ID: np.arange(2)},
            np.zeros(3, np.float32),
            window=EMPTY,
            draws=Draws(),
            weights_step=0,
        )
