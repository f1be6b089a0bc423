"""From a pool number to the rows that a scorer sees."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, POOL, Batch, Indexed, Source, num_rows, take
from raysb.seeding import Draws
from raysb.source.augment import Augmentation, none
from raysb.source.normalise import image_columns
from raysb.source.plan import PoolPlan


def read_pool(
    source: Source,
    plan: PoolPlan,
    pool: int,
    augmentation: Augmentation = none,
    seed: int = 0,
    *,
    inputs: Sequence[str] = ("image",),
    view: int = 0,
    rows: npt.NDArray[np.int64] | None = None,
) -> Batch:
    """Read, decode and augment the rows of one pool: a pure function of its arguments.

    Args:
        source: The training rows.
        plan: Which rows make up which pool.
        pool: Sequence number of the pool in the run.
        augmentation: From `augment.augment`; applied to those of `inputs` that hold images
            (uint8 [n, H, W, C]), with the same draws for each of them.
        seed: The run's seed.
        inputs: Columns that the model sees.
        view: Which of several augmented views of the same epoch.
        rows: Positions in the pool of the rows that are wanted, ascending; by default all.

    Returns:
        The source's columns with `id` (int64 [n]) and `pool` (int64 [n]).

    Raises:
        IndexError: The run has no such pool.
        DataError: Rows cannot be used, or the source does not give what it must.
    """
    epoch, start, stop = plan.locate(pool)
    if rows is None:
        batch = dict(source.read(epoch, start, stop))
    elif isinstance(source, Indexed):
        batch = dict(source.read_some(epoch, start, stop, rows))
    else:
        batch = take(source.read(epoch, start, stop), rows)
    _check(batch, epoch, start, stop, inputs, stop - start if rows is None else len(rows))
    ids = batch[ID].astype(np.int64, copy=False)
    draws = Draws(seed=seed, epoch=epoch)
    for name in image_columns(batch, inputs):
        batch[name] = augmentation(batch[name].view(np.uint8), ids, draws, view)
    batch[ID], batch[POOL] = ids, np.full(len(ids), pool, np.int64)
    return batch


def _check(
    batch: Batch, epoch: int, start: int, stop: int, inputs: Sequence[str], wanted: int
) -> None:
    """Hold a source of the user's own to the protocol; ours keep it."""
    call = f"source.read({epoch}, {start}, {stop})"
    if missing := [name for name in (ID, *inputs) if name not in batch]:
        raise DataError(f"{call} gave the columns {', '.join(batch)}, without {missing[0]!r}.")
    lengths = {name: len(column) for name, column in batch.items()}
    if num_rows(batch) != wanted or len(set(lengths.values())) > 1:
        raise DataError(f"{call} gave {lengths} rows, not {wanted} of each column.")
