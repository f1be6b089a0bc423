"""Channels that may be removed, sorted into groups that are ranked by themselves.

Where something needs equally many channels in each of its groups (group norm, grouped convolution,
`chunk`), channels of the same standing form cells, and every cell of a group keeps the same share t
of its channels: of cells with n_1, n_2, ... channels and g = gcd(n_1, n_2, ...), t of g units stay,
a unit being n_i / g channels of every cell i. Every linear count, and so every such need, is then
met. Elsewhere a group has one cell, and each channel is a unit.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

_FEWEST = 2  # channels of a mean in a norm, where it has so many


@dataclass(frozen=True)
class Constraint:
    """Equally many channels must stay in every row.

    Args:
        ids: int64 [groups, channels of a group]
    """

    ids: torch.Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are ranked together.

    Args:
        cells: Channel ids of each cell. int64 [channels of the cell]
        layers: Layers that make these channels, several where a sum ties them.
        least: Units that stay at least.
    """

    cells: tuple[torch.Tensor, ...]
    layers: tuple[str, ...]
    least: int = 1

    @property
    def num_units(self) -> int:
        """g, in how many equal steps it can be made smaller."""
        return math.gcd(*(len(cell) for cell in self.cells))

    @property
    def num_channels(self) -> int:
        """Channels of all cells; coupled ones count once."""
        return sum(len(cell) for cell in self.cells)

    def ranked(self, scores: torch.Tensor) -> list[torch.Tensor]:
        """The channel ids of each unit, best unit first.

        Args:
            scores: Importance of each channel id; equal ones keep their order. float [ids]
        """
        orders = [cell[scores[cell].argsort(descending=True, stable=True)] for cell in self.cells]
        g = self.num_units
        return [torch.cat([order.view(g, -1)[u] for order in orders]) for u in range(g)]


def find_groups(
    outputs: Mapping[str, torch.Tensor], constraints: Sequence[Constraint], fixed: torch.Tensor
) -> tuple[tuple[ChannelGroup, ...], torch.Tensor]:
    """Sort all channels that may go.

    Args:
        outputs: Channel ids of every layer's output. int64 [out_channels]
        constraints: What must be met.
        fixed: Channels that stay, by id. bool [ids]

    Returns:
        The groups in the order of the layers, and `fixed` with what cannot be removed since a
        constraint has a fixed channel in it.
    """
    fixed = _spread(fixed, constraints)
    standing: dict[int, list[object]] = defaultdict(list)
    for name, ids in outputs.items():
        for one, times in _counts(ids, fixed).items():
            standing[one].append((name, times))
    for number, each in enumerate(constraints):
        for row, ids in enumerate(each.ids):
            for one, times in _counts(ids, fixed).items():
                standing[one].append((number, row, times))
    cells: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for one, found in standing.items():  # in the order of the layers
        cells[tuple(found)].append(one)
    joined = _joined(list(cells.values()), constraints)
    return tuple(_group(each, outputs) for each in joined), fixed


def with_least(
    group: ChannelGroup, norms: Mapping[str, torch.Tensor], divided: Mapping[str, int]
) -> ChannelGroup:
    """The group, which leaves two channels to each mean that a norm takes over several.

    A mean over one channel is the channel: what is left of it is 0 on features, and of a picture
    its own contrast. Where the channels of several groups of ours meet in a norm, each gives one.

    Args:
        group: May lose channels.
        norms: Channel ids of every norm. int64 [channels]
        divided: Of norms that take a mean over channels, into how many parts they divide them.
    """
    members, least = torch.cat(group.cells), 1
    for name, parts in divided.items():
        each = len(norms[name]) // parts
        if each > 1 and bool(torch.isin(norms[name], members).all()):
            least = max(least, math.ceil(_FEWEST * group.num_units / each))
    return replace(group, least=least)


def _counts(ids: torch.Tensor, fixed: torch.Tensor) -> dict[int, int]:
    """How often each free channel occurs, in order of first occurrence."""
    found: dict[int, int] = {}
    for one in ids[~fixed[ids]].tolist():
        found[one] = found.get(one, 0) + 1
    return found


def _spread(fixed: torch.Tensor, constraints: Sequence[Constraint]) -> torch.Tensor:
    fixed = fixed.clone()
    again = True
    while again:
        again = False
        for each in constraints:
            touched = fixed[each.ids]
            if touched.any() and not touched.all():
                fixed[each.ids] = True
                again = True
    return fixed


def _joined(
    cells: Sequence[Sequence[int]], constraints: Sequence[Constraint]
) -> list[list[Sequence[int]]]:
    """Cells that a constraint binds together, in order of the first of each."""
    home = {one: number for number, cell in enumerate(cells) for one in cell}
    leader = list(range(len(cells)))

    def lead(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    for each in constraints:
        found = sorted({lead(home[one]) for one in each.ids.flatten().tolist() if one in home})
        for other in found[1:]:
            leader[other] = found[0]
    together: dict[int, list[Sequence[int]]] = defaultdict(list)
    for number, cell in enumerate(cells):
        together[lead(number)].append(cell)
    return list(together.values())


def _group(cells: Sequence[Sequence[int]], outputs: Mapping[str, torch.Tensor]) -> ChannelGroup:
    members = {one for cell in cells for one in cell}
    makers = [name for name, ids in outputs.items() if not members.isdisjoint(ids.tolist())]
    return ChannelGroup(tuple(torch.tensor(cell) for cell in cells), tuple(makers))
