"""Holding rows out by a hash of their id: the same rows in every process, file and order."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids
from raysb.seeding import hash_ids, key

# Not the run's seed: two runs that are compared must be tested on the same rows.
_SALT = key("split")


def split_by_id(ids: Ids, fraction: float) -> npt.NDArray[np.bool_]:
    """True for the rows that are held out, hash(id) / 2^64 < fraction; bool [n].

    Each row's answer depends on its id alone. A larger fraction holds out the same rows and more.

    Args:
        ids: int64 [n].
        fraction: Expected share of rows held out, in [0, 1].

    Raises:
        ValueError: The fraction is outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"split_by_id(fraction={fraction}): a share in [0, 1] is needed.")
    unit = (hash_ids(ids, _SALT) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return unit < fraction


@dataclass(frozen=True, kw_only=True)
class Part:
    """One side of a split, as something that is asked about ids.

    A source that is restricted to a part keeps this object instead of row numbers, so it stays
    small whatever the number of rows.

    Args:
        fraction: Share held out, in [0, 1].
        held_out: True for the rows held out (test), False for the others (train).
    """

    fraction: float
    held_out: bool

    def keep(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """True for the ids that belong to this part, bool [n]."""
        mask = split_by_id(ids, self.fraction)
        return mask if self.held_out else ~mask
