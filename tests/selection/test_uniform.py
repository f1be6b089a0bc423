"""Uniform keeps every row and looks at no score."""

import numpy as np
import pytest

from raysb.schema import ID, LOSS, PROBABILITY, WEIGHT
from raysb.seeding import Draws
from raysb.selection import SelectiveBackprop, Uniform, select_pool


def test_every_row_is_kept_with_weight_one_and_nothing_is_scored() -> None:
    assert not Uniform.needs_scores
    pool = {ID: np.array([5, 3]), "x": np.zeros((2, 4), np.uint8)}
    window = np.zeros(0, np.float32)
    batch, selected, nonfinite, _ = select_pool(
        Uniform(), pool, None, window=window, draws=Draws(), weights_step=0
    )
    assert batch[ID].tolist() == [5, 3]
    assert batch[WEIGHT].tolist() == batch[PROBABILITY].tolist() == [1, 1]
    assert LOSS not in batch
    assert selected.all()
    assert len(nonfinite) == 0


def test_a_selector_that_ranks_losses_refuses_to_do_without() -> None:
    pool, window = {ID: np.arange(2)}, np.zeros(0, np.float32)
    with pytest.raises(ValueError, match="losses=None"):
        select_pool(SelectiveBackprop(), pool, None, window=window, draws=Draws(), weights_step=0)
