import numpy as np
import pytest

from raysb.errors import DataError
from raysb.schema import Batch
from raysb.seeding import Draws
from raysb.source.arrays import ArraySource
from raysb.source.augment import augment
from raysb.source.plan import PoolPlan
from raysb.source.reader import read_pool

PLAN = PoolPlan(num_rows=25, pool_rows=10, epochs=2)


def source() -> ArraySource:
    rng = np.random.default_rng(0)
    return ArraySource(
        {
            "image": rng.integers(0, 256, (25, 8, 8, 1), np.uint8),
            "mask": rng.integers(0, 256, (25, 8, 8, 1), np.uint8),
            "label": np.arange(25),
            "id": np.arange(25) + 1000,
        },
        seed=4,
    )


def test_a_pool_is_its_rows_augmented_with_id_and_number() -> None:
    for pool in range(PLAN.num_pools):
        epoch, start, stop = PLAN.locate(pool)
        plain = source().read(epoch, start, stop)
        batch = read_pool(source(), PLAN, pool, augment("shift"), 9)
        draws = Draws(seed=9, epoch=epoch)
        expected = augment("shift")(plain["image"], plain["id"], draws, 0)  # type: ignore[arg-type]
        assert np.array_equal(batch["image"], expected)
        assert np.array_equal(batch["id"], plain["id"])
        assert batch["pool"].tolist() == [pool] * (stop - start)
        assert (batch["id"].dtype, batch["pool"].dtype) == (np.int64, np.int64)


def test_the_pools_of_an_epoch_hold_every_id_once() -> None:
    ids = np.concatenate([read_pool(source(), PLAN, pool)["id"] for pool in range(3, 6)])
    assert sorted(ids.tolist()) == list(range(1000, 1025))


def test_only_inputs_that_hold_images_are_augmented_and_all_alike() -> None:
    rows, shift = source(), augment("shift")
    plain = rows.read(0, 0, 10)
    one = read_pool(rows, PLAN, 0, shift, inputs=("image", "label"))
    assert np.array_equal(one["mask"], plain["mask"])
    assert np.array_equal(one["label"], plain["label"])
    same = ArraySource({"image": rows.columns["image"], "mask": rows.columns["image"]})
    both = read_pool(same, PLAN, 0, shift, inputs=("image", "mask"))
    assert np.array_equal(both["image"], both["mask"])


def test_another_view_is_another_picture_of_the_same_rows() -> None:
    first, second = (read_pool(source(), PLAN, 0, augment("shift"), view=view) for view in (0, 1))
    assert np.array_equal(first["id"], second["id"])
    assert not np.array_equal(first["image"], second["image"])


class Broken:
    """A source of the user's own that does not keep to the protocol."""

    num_rows = 25

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        return self.batch


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"image": np.zeros(10)}, "without 'id'"),
        ({"id": np.arange(10)}, "without 'image'"),
        ({"image": np.zeros(9), "id": np.arange(9)}, "not 10 of each"),
        ({"image": np.zeros(9), "id": np.arange(10)}, "not 10 of each"),
    ],
)
def test_a_source_that_breaks_the_protocol_is_told(batch: Batch, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_pool(Broken(batch), PLAN, 0)
