"""k rows of a stream of unknown length, with probability by weight, in one pass."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raysb.history.state import VERSION, check_state
from raysb.schema import Floats, Ids
from raysb.seeding import Draws
from raysb.selection.checks import is_whole

_CHUNK = 1 << 16  # rows entered at once: the sorting that finds repeated ids stays in the cache


class WeightedSample(NamedTuple):
    """What a reservoir holds. [m] with m = min(k, rows of positive weight)."""

    ids: Ids  # in the order of successive drawing: the first of them is a sample of size 1
    weights: npt.NDArray[np.float64]
    probability: Floats  # given the threshold, see `WeightedReservoir.sample`


class WeightedReservoir:
    """Weighted sampling without replacement, exactly k rows, in O(k) memory.

    Drawing k rows one after the other, each with probability proportional to its weight among the
    rows still there, equals keeping the k largest keys

        u_i ^ (1 / w_i),   u_i uniform in (0, 1)

    The keys are kept as log(w) - log(-log(u)), which neither underflows for small weights nor
    rounds to 1 for large ones. u is a function of (seed, epoch, id), so the same rows are sampled
    in whatever order, chunks and partition they arrive; reservoirs of parts merge into that of the
    whole, exactly. For that every row needs its number: the exponential jumps of A-ExpJ, which
    draw fewer, sample from the same distribution but depend on the order.

    An id that is offered again is held once, by its largest key: replays change nothing.

    Args:
        capacity: k, at least 1.
        draws: Random numbers; another epoch samples others.

    Raises:
        ValueError: `capacity` is no whole number of at least 1.

    References:
        P. Efraimidis, P. Spirakis: Weighted random sampling with a reservoir, Information
        Processing Letters 97, 2006. https://doi.org/10.1016/j.ipl.2005.11.003
    """

    def __init__(self, capacity: int, draws: Draws) -> None:
        if not is_whole(capacity, 1):
            raise ValueError(
                f"WeightedReservoir(capacity={capacity!r}): must be a whole number of at least 1"
            )
        self.capacity = capacity
        self.draws = draws
        self._ids = np.zeros(0, np.int64)  # best first; one more than k, which is the threshold
        self._weights = np.zeros(0)
        self._keys = np.zeros(0)

    def __len__(self) -> int:
        return min(len(self._ids), self.capacity)

    def update(self, ids: Ids, weights: npt.NDArray[np.floating]) -> None:
        """Offer rows.

        Args:
            ids: int64 [n].
            weights: [n], finite, at least 0; rows of weight 0 are never sampled.

        Raises:
            ValueError: There are not as many weights as ids, or one is negative, NaN or infinite.
                Nothing was offered.
        """
        values = np.asarray(weights, np.float64)
        if values.shape != ids.shape or not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(
                f"WeightedReservoir.update: {len(ids)} ids need as many finite weights of at least "
                f"0, got {weights}; a row of infinite weight would leave no chance to any other"
            )
        for start in range(0, len(ids), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._enter(ids[part], values[part], self._key(ids[part], values[part]))

    def _key(self, ids: Ids, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        arrival = -np.log1p(-self.draws.uniform(ids, "reservoir"))  # 1 - u is above 0
        with np.errstate(divide="ignore"):  # weight 0: key -inf; a draw of 0: key inf
            return np.where(weights > 0, np.log(weights) - np.log(arrival), -np.inf)

    def _enter(
        self, ids: Ids, weights: npt.NDArray[np.float64], keys: npt.NDArray[np.float64]
    ) -> None:
        full = len(self._ids) > self.capacity
        better = (keys >= self._keys[-1]) if full else keys > -np.inf
        if not better.any():
            return
        ids = np.concatenate([self._ids, ids[better].astype(np.int64)])
        weights = np.concatenate([self._weights, weights[better]])
        keys = np.concatenate([self._keys, keys[better]])
        best = _distinct(ids, _descending(keys, ids))[: self.capacity + 1]
        self._ids, self._weights, self._keys = ids[best], weights[best], keys[best]

    def merge(self, other: "WeightedReservoir") -> None:
        """Take in another reservoir: this one is then what one pass over both parts gives.

        Raises:
            ValueError: The other has another capacity or other draws. Nothing was merged.
        """
        mine, others = (self.capacity, self.draws), (other.capacity, other.draws)
        if mine != others:
            raise ValueError(
                f"WeightedReservoir.merge: this one has {mine}, the other {others}; keys of other "
                "draws are not comparable. Nothing was merged"
            )
        self._enter(other._ids, other._weights, other._keys)

    def sample(self) -> WeightedSample:
        """The rows, and the chance of each given the threshold.

        With tau the (k+1)-th key, the best that was left out, p_i = 1 - exp(-w_i exp(-tau)): the
        chance of row i when the draws of all others are fixed. So sums over the sample of x_i / p_i
        estimate sums over the stream without bias, for any x (Cohen and Kaplan 2007, bottom-k
        sketches). Where nothing was left out, p is 1.
        """
        count = len(self)
        ids, weights = self._ids[:count].copy(), self._weights[:count].copy()
        if len(self._ids) <= self.capacity:
            return WeightedSample(ids, weights, np.ones(count, np.float32))
        exponent = np.exp(np.minimum(np.log(weights) - self._keys[-1], 700))  # a float holds it
        chance = np.maximum(-np.expm1(-exponent), np.finfo(np.float32).tiny)
        return WeightedSample(ids, weights, chance.astype(np.float32))

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: numbers and arrays."""
        return {
            "version": VERSION,
            "capacity": self.capacity,
            "seed": self.draws.seed,
            "epoch": self.draws.epoch,
            "ids": self._ids.copy(),
            "weights": self._weights.copy(),
            "keys": self._keys.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by a saved state.

        Raises:
            ValueError: The state is not one of a reservoir with this capacity and these draws.
        """
        check_state("WeightedReservoir", state, self.state_dict().keys() - {"version"})
        for name in ("capacity", "seed", "epoch"):
            mine = self.capacity if name == "capacity" else getattr(self.draws, name)
            if state[name] != mine:
                raise ValueError(
                    f"WeightedReservoir.load_state_dict: the state was saved with {name}="
                    f"{state[name]}, this one has {name}={mine}. Nothing was loaded"
                )
        self._ids = np.array(state["ids"], np.int64)
        self._weights = np.array(state["weights"], np.float64)
        self._keys = np.array(state["keys"], np.float64)


def _descending(keys: npt.NDArray[np.float64], ids: Ids) -> npt.NDArray[np.int64]:
    """Rows by key, the largest first; level ones by id."""
    order = np.argsort(-keys)  # several times faster than sorting by two columns
    level = keys[order[1:]] == keys[order[:-1]]
    return np.lexsort((ids, -keys)) if level.any() else order


def _distinct(ids: Ids, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The rows in the same order, of each id the first only."""
    ascending = np.sort(ids)
    if not (ascending[1:] == ascending[:-1]).any():
        return order
    _, first = np.unique(ids[order], return_index=True)
    return order[np.sort(first)]
