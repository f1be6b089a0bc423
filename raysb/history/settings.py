"""Settings of the loss history."""

from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True, kw_only=True)
class History:
    """How the loss history is kept.

    Args:
        num_shards: Actors that share the ids, at least 1. On one node one is fastest; more are for
            many nodes and for more samples than one can hold.
    """

    num_shards: int = 1

    def __post_init__(self) -> None:
        shards = self.num_shards
        if not isinstance(shards, Integral) or isinstance(shards, bool) or shards < 1:
            raise ValueError(f"history.num_shards={shards!r}: must be a whole number of at least 1")
