"""Ids are spread evenly over the shards, each to one, whatever company it arrives in."""

import numpy as np
import pytest

from raysb.history.routing import shard_of, split, split_state
from raysb.seeding import hash_ids


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 8])
def test_every_row_goes_to_one_shard_that_depends_on_its_id_alone(num_shards) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, 5000)
    rows = split(ids, num_shards)
    assert len(rows) == num_shards
    assert np.sort(np.concatenate(rows)).tolist() == list(range(5000))
    for shard, part in enumerate(rows):
        assert (np.diff(part) > 0).all()
        assert (shard_of(ids[part], num_shards) == shard).all()
        assert all(shard_of(ids[i : i + 1], num_shards) == shard for i in part[:20])


@pytest.mark.parametrize("stride", [1, 8, 2**32])
def test_shards_are_equally_full_for_ids_of_any_stride(stride) -> None:
    counts = np.bincount(shard_of(np.arange(80_000) * stride, 8), minlength=8)
    assert abs(counts - 10_000).max() < 5 * 10_000**0.5


def test_a_shard_still_spreads_its_ids_over_its_own_index() -> None:
    """With the same bits for both, the ids of one of 8 shards would share few of the slots."""
    ids = np.arange(200_000)
    mine = ids[shard_of(ids, 8) == 3]
    counts = np.bincount((hash_ids(mine) % np.uint64(16)).astype(np.int64), minlength=16)
    assert abs(counts - len(mine) / 16).max() < 5 * (len(mine) / 16) ** 0.5


def test_a_foreign_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LossHistory\.load_state_dict"):
        split_state({"version": 1}, 2)
