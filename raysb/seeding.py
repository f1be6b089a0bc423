"""Every random number of a run comes from here, keyed by what it decides.

A draw is a function of (seed, epoch, id, purpose), never of the order in which work arrives: any
number of scorers, workers and restarts sees the same numbers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection that scatters all bits."""
    z = values.copy()
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def key(*parts: int | str) -> int:
    """One 63-bit key from any number of integers and names, e.g. `key(seed, "order", epoch)`."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        # the length tells a name from the numbers of its letters, and where one name ends
        words = (len(part), *part.encode()) if isinstance(part, str) else (-1, part)
        for word in words:
            state = mix64((state + _GOLDEN) ^ np.uint64(word & 0xFFFFFFFFFFFFFFFF))
    return int(state[0] >> np.uint64(1))


def generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator of its own for each key."""
    return np.random.Generator(np.random.Philox(key(*parts)))


def hash_ids(ids: Ids, salt: int = 0) -> npt.NDArray[np.uint64]:
    """64 well-scattered bits per id. [n]"""
    return mix64(
        (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN ^ mix64(np.full(1, salt, np.uint64))
    )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Uniform numbers keyed by (seed, epoch, id, purpose).

    Args:
        seed: The run's seed.
        epoch: Epoch of the pool, from 0.
    """

    seed: int = 0
    epoch: int = 0

    def uniform(self, ids: Ids, purpose: str = "select") -> npt.NDArray[np.float64]:
        """One number in [0, 1) for each id. [n]"""
        bits = hash_ids(ids, key(self.seed, purpose, self.epoch))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
