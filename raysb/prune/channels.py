"""Channel ids: every channel of a net has a number, and channels that live or die together one.

A union-find (Galler & Fischer 1964) over single channels: what a residual sum ties is one channel
under two names, and concatenation and flattening only rearrange numbers.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Flow:
    """The one dimension of a tensor that pruning makes smaller.

    Args:
        dim: Which, from 0.
        ids: The channel at each place of it. int64 [size of the dimension]
    """

    dim: int
    ids: torch.Tensor

    def moved(self, dim: int) -> "Flow":
        """The same channels in another dimension."""
        return Flow(dim, self.ids)


class ChannelIds:
    """Numbers for channels, tied or fixed while a net is walked through."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: set[int] = set()

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, number: int, *, fixed: bool = False) -> torch.Tensor:
        """Fresh ids. int64 [number]"""
        first = len(self._parent)
        self._parent += range(first, first + number)
        ids = torch.arange(first, first + number)
        if fixed:
            self.fix(ids)
        return ids

    def fix(self, ids: torch.Tensor) -> None:
        """Channels that stay."""
        self._fixed.update(ids.tolist())

    def tie(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Make two vectors of equal length one, place by place."""
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self._find(one), self._find(other)
            self._parent[max(a, b)] = min(a, b)

    def _find(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def roots(self) -> torch.Tensor:
        """The id that stands for each. int64 [ids]"""
        return torch.tensor([self._find(one) for one in range(len(self))], dtype=torch.int64)

    def fixed(self) -> torch.Tensor:
        """Whether each id that stands for others, or for itself, stays. bool [ids]"""
        found = torch.zeros(len(self), dtype=torch.bool)
        found[[self._find(one) for one in self._fixed]] = True
        return found
