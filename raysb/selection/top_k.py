"""The k largest of some values, with ties decided by lot."""

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids
from raysb.seeding import Draws


def rows_kept(fraction: float, size: int) -> int:
    """max(round(f n), 1) of n rows, 0 of none; halves are rounded to the even number."""
    return max(round(fraction * size), 1) if size else 0


def top_k(
    values: npt.NDArray[np.floating], count: int, ids: Ids, draws: Draws
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The rows of the largest values.

    Of the rows level with the last one there may be more than places left. They get them by the
    smallest draws, so none is preferred for where it stands in the pool.

    Args:
        values: [n], finite.
        count: k, from 0 to n.
        ids: int64 [n], the keys of the draws.
        draws: Random numbers of the pool's epoch.

    Returns:
        Rows, int64 [k], ascending; the chance of each, float64 [k]: 1 above the last value, and
        (places left) / (rows level) at it.
    """
    if not count:
        return np.zeros(0, np.int64), np.zeros(0)
    last = np.partition(values, len(values) - count)[len(values) - count]
    above, level = np.flatnonzero(values > last), np.flatnonzero(values == last)
    places = count - len(above)
    drawn = level[_smallest(draws.uniform(ids[level]), places, ids[level])]
    rows = np.sort(np.concatenate([above, drawn]))
    return rows, np.where(values[rows] == last, places / len(level), 1.0)


def _smallest(lot: npt.NDArray[np.float64], count: int, ids: Ids) -> npt.NDArray[np.int64]:
    """The rows of the smallest draws, level ones by id; none is put in order, as a sort would."""
    last = np.partition(lot, count - 1)[count - 1]
    before, level = np.flatnonzero(lot < last), np.flatnonzero(lot == last)
    by_id = level[np.argsort(ids[level])]
    return np.concatenate([before, by_id[: count - len(before)]])
