"""Prune to a budget: greedy, where a step takes what is worth least for what it saves.

After NetAdapt (Yang et al. 2018, arXiv:1804.03230): at each step every group of channels proposes
to give up as many of its worst units as save the step's share of the cost. NetAdapt fine-tunes each
proposal and takes the most accurate one; here the one is taken that loses the least importance for
what it saves, which needs no training. Any cost will do: parameters, multiply-accumulates, measured
seconds, energy.
"""

import math
from collections.abc import Mapping, Sequence

from raysb.prune.amounts import (
    Importance,
    Ranking,
    Reduction,
    exact_counts,
    plan_from_counts,
    rank,
    rounded,
)
from raysb.prune.costs import Cost, Counts, WidthModel
from raysb.prune.graph import ChannelGraph
from raysb.prune.plan import PruningPlan

STEPS = 32  # into which what is to be saved is cut


def plan_for_budget(
    graph: ChannelGraph,
    importance: Importance,
    cost: Cost,
    share: float,
    *,
    keep: Mapping[str, int] | None = None,
    round_to: int = 1,
    reduction: Reduction = "sum",
    normalize: bool = True,
) -> PruningPlan:
    """Remove channels until a cost is at most a share of what it is.

    Args:
        graph: Of the model.
        importance: As of `make_plan`.
        cost: What is bounded, from `raysb.prune.costs` or `raysb.prune.latency`.
        share: Of the cost of the whole net that may remain, in (0, 1).
        keep: Layers whose number of channels is given; they count, and are not touched further.
        round_to: What stays of a group that loses channels is a multiple of this.
        reduction: Of the importance of coupled layers: their sum, since what a channel of several
            layers saves is the sum of what each saves, too.
        normalize: As of `make_plan`.

    Raises:
        ValueError: The budget cannot be met; the message says what can.
    """
    if not 0 < share < 1:
        raise ValueError(f"budget={share}: must be above 0 and below 1, a share of the cost now")
    rankings = rank(graph, importance, reduction, normalize)
    fixed = exact_counts(graph, rankings, dict(keep or {}))
    search = _Search(graph, rankings, cost, frozenset(fixed), round_to)
    for index, count in fixed.items():
        search.units[index] = count
    target = share * cost(search.model.at())
    step = (cost(search.model.at()) - target) / STEPS
    while (now := search.cost_of(search.units)) > target:
        found = search.best(now, min(step, now - target))
        if found is None:
            reached = math.ceil(1000 * now / cost(search.model.at())) / 1000
            raise ValueError(
                f"budget={share}: cannot be met: the smallest share that can be reached, with the "
                f"fewest channels that may stay, is {reached:g}; ask for that, or protect or keep "
                "less"
            )
        search.units[found[0]] = found[1]
    counts = {index: int(count) for index, count in enumerate(search.units)}
    return plan_from_counts(graph, rankings, counts)


class _Search:
    """The state of the greedy search: how many units each group keeps."""

    def __init__(
        self,
        graph: ChannelGraph,
        rankings: Sequence[Ranking],
        cost: Cost,
        fixed: frozenset[int],
        round_to: int,
    ) -> None:
        self.model = WidthModel(graph)
        self.units: Counts = self.model.full.copy()
        self._cost = cost
        self._rankings = rankings
        self._levels = {
            index: _levels(ranking, round_to)
            for index, ranking in enumerate(rankings)
            if index not in fixed
        }

    def cost_of(self, units: Counts) -> float:
        return self._cost(self.model.at(units))

    def best(self, now: float, step: float) -> tuple[int, int] | None:
        """The group that gives up the least importance for what it saves, and what it keeps."""
        best: tuple[float, int, int] | None = None
        for index, levels in self._levels.items():
            proposal = self._proposal(index, levels, now, step)
            if proposal is None:
                continue
            units, saved = proposal
            gone = self._rankings[index].values[units : int(self.units[index])]
            lost = float(gone.sum()) * self._rankings[index].unit_size
            if best is None or lost / saved < best[0]:
                best = (lost / saved, index, units)
        return None if best is None else best[1:]

    def _proposal(
        self, index: int, levels: Sequence[int], now: float, step: float
    ) -> tuple[int, float] | None:
        """The most units with which a group saves the step; if none do, the most that it saves."""
        found = None
        for units in levels:
            if units >= self.units[index]:
                continue
            tried = self.units.copy()
            tried[index] = units
            saved = now - self.cost_of(tried)
            if saved > 0 and (found is None or saved > found[1]):
                found = (units, saved)
            if saved >= step:
                return units, saved
        return found


def _levels(ranking: Ranking, round_to: int) -> list[int]:
    """Numbers of units that a group may keep, falling."""
    found = {rounded(ranking, units, round_to) for units in range(1, ranking.group.num_units + 1)}
    return sorted(found, reverse=True)
