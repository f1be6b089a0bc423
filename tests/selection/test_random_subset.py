"""RandomSubset: a fixed share, whatever the losses."""

import numpy as np
import pytest

from raysb.schema import ID, LOSS
from raysb.seeding import Draws
from raysb.selection import RandomSubset, select_pool


def test_it_keeps_its_share_of_a_pool_that_nobody_scored() -> None:
    pool = {ID: np.arange(256), "x": np.arange(256)}
    window = np.zeros(0, np.float32)
    batch, selected, *_ = select_pool(
        RandomSubset(fraction=0.25), pool, None, window=window, draws=Draws(), weights_step=0
    )
    assert not RandomSubset.needs_scores
    assert selected.sum() == len(batch[ID]) == 64
    assert LOSS not in batch
    assert set(batch["probability"].tolist()) == {0.25}


def test_losses_change_nothing() -> None:
    ids, losses = np.arange(100), np.random.default_rng(0).exponential(size=100)
    picks = [
        RandomSubset().select(ids, scores, None, Draws(seed=3)).indices.tolist()
        for scores in (None, losses.astype(np.float32))
    ]
    assert picks[0] == picks[1]


def test_all_rows_have_their_turn_over_the_epochs() -> None:
    ids, counts = np.arange(200), np.zeros(200)
    for epoch in range(2000):
        counts[RandomSubset(fraction=0.3).select(ids, None, None, Draws(epoch=epoch)).indices] += 1
    assert abs(counts / 2000 - 0.3).max() < 4.5 * np.sqrt(0.21 / 2000)


@pytest.mark.parametrize("fraction", [0, -1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(fraction) -> None:
    with pytest.raises(ValueError, match=rf"RandomSubset\(fraction={fraction!r}\): must be"):
        RandomSubset(fraction=fraction)
