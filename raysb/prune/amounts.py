"""How many channels go, and which: shares of a net or of each layer, exact numbers, multiples.

Every layer's importance s_j is divided by its norm |s|_2 (Molchanov et al. 2017, arXiv:1611.06440),
which makes layers comparable; a channel that several layers make has the mean or the sum of theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from raysb.imports import unknown
from raysb.prune.graph import ChannelGraph
from raysb.prune.groups import ChannelGroup
from raysb.prune.plan import PruningPlan, plan_for

Importance = Mapping[str, torch.Tensor]
Scope = Literal["global", "layer"]
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Ranking:
    """A group's units, best first.

    Args:
        group: Whose.
        units: Channel ids of each unit. int64 [channels of a unit]
        values: Importance of each unit, falling. float64 [units]
    """

    group: ChannelGroup
    units: list[torch.Tensor]
    values: torch.Tensor

    @property
    def unit_size(self) -> int:
        """Channels of a unit."""
        return len(self.units[0])


def make_plan(
    graph: ChannelGraph,
    importance: Importance,
    amount: float | None = None,
    *,
    keep: Mapping[str, int] | None = None,
    scope: Scope = "global",
    round_to: int = 1,
    reduction: Reduction = "mean",
    normalize: bool = True,
) -> PruningPlan:
    """Remove the least important channels.

    Every group of channels keeps one unit at least, and so many that each group of a group norm
    (a layer norm is one) keeps two channels where it had several.

    Args:
        graph: Of the model.
        importance: Of every prunable layer's output channels, higher stays. float [out_channels]
        amount: Share of the channels that goes, in (0, 1); of those that `keep` says nothing of,
            coupled ones counted once. `None`: only what `keep` says.
        keep: Output channels that stay of a layer, exactly: `{"conv1": 8}`; not fewer than that.
        scope: `global` ranks all channels together, `layer` takes the share from each group.
        round_to: What stays of a group is the nearest multiple of this, or all of it.
        reduction: Of the importance of coupled layers.
        normalize: Divide each layer's importance by its norm; without, criteria that measure the
            same in all layers (changes of the loss) are compared as they are.

    Raises:
        ValueError: Nothing would change, or an argument is out of range; the message says which.
    """
    keep = dict(keep or {})
    if amount is None and not keep:
        raise ValueError("make_plan: give amount, keep, or both; nothing would change")
    if amount is not None and not 0 < amount < 1:
        raise ValueError(f"make_plan(amount={amount}): must be above 0 and below 1")
    if round_to < 1:
        raise ValueError(f"make_plan(round_to={round_to}): must be at least 1")
    rankings = rank(graph, importance, reduction, normalize)
    fixed = exact_counts(graph, rankings, keep)
    if amount is None:
        return plan_from_counts(graph, rankings, fixed)
    free = {i: each for i, each in enumerate(rankings) if i not in fixed}
    if fixed and all(each.group.least == each.group.num_units for each in free.values()):
        raise ValueError(
            f"make_plan(amount={amount}): keep says of every layer that may lose channels how many "
            "stay, so no channel is left for amount; leave one of them out"
        )

    def counts(share: float) -> dict[int, int]:
        left = _shares(list(free.values()), share, scope)
        pairs = zip(free.items(), left, strict=True)
        return fixed | {i: rounded(ranking, count, round_to) for (i, ranking), count in pairs}

    chosen = counts(amount)
    if not _removes(rankings, chosen):
        todo = _enough(list(free.values()), amount, lambda share: _removes(rankings, counts(share)))
        raise ValueError(f"nothing would change: every channel stays. {todo}")
    return plan_from_counts(graph, rankings, chosen)


def layers_at_least(graph: ChannelGraph, plan: PruningPlan) -> list[str]:
    """Layers that lose channels, and of which a plan leaves the fewest that may stay.

    With a global ranking a sign that it took one layer for all: others had more to give.
    """
    stays = torch.ones(graph.num_ids, dtype=torch.bool)
    for name, layer in graph.layers.items():
        if name in plan.modules:
            stays[layer.outputs] = False
            stays[layer.outputs[plan.modules[name].outputs]] = True
    found = set[str]()
    for group in graph.groups:
        left = sum(int(stays[cell].sum()) for cell in group.cells)
        if left < group.num_channels and left * group.num_units <= group.least * group.num_channels:
            found.update(group.layers)
    return [name for name in graph.layers if name in found]


def rank(
    graph: ChannelGraph,
    importance: Importance,
    reduction: Reduction = "mean",
    normalize: bool = True,
) -> list[Ranking]:
    """Rank the units of every group.

    Raises:
        ValueError: A layer's importance is missing, has another length, or is not finite.
    """
    scores = channel_scores(graph, importance, reduction, normalize)
    rankings = []
    for group in graph.groups:
        units = group.ranked(scores)
        values = torch.stack([scores[unit].mean() for unit in units])
        rankings.append(Ranking(group, units, values))
    return rankings


def channel_scores(
    graph: ChannelGraph,
    importance: Importance,
    reduction: Reduction = "mean",
    normalize: bool = True,
) -> torch.Tensor:
    """Importance of every channel id, that of the layers that make it joined. float64 [num_ids]"""
    total = torch.zeros(graph.num_ids, dtype=torch.float64)
    number = torch.zeros_like(total)
    if missing := [name for name in graph.prunable if name not in importance]:
        raise ValueError(f"importance: has no entry for the layers {', '.join(missing)}")
    for name in graph.prunable:
        values, ids = importance[name].detach().cpu().double(), graph.layers[name].outputs
        if values.shape != ids.shape or not bool(values.isfinite().all()):
            raise ValueError(
                f"importance[{name!r}]: has shape {list(values.shape)}, and "
                f"{int(values.isfinite().sum())} finite values; needed is a finite one for each "
                f"of the {len(ids)} output channels"
            )
        norm = values.norm() if normalize else 0
        total.index_add_(0, ids, values / norm if norm > 0 else values)
        number.index_add_(0, ids, torch.ones_like(values))
    return total / number.clamp(min=1) if reduction == "mean" else total


def exact_counts(
    graph: ChannelGraph, rankings: Sequence[Ranking], keep: Mapping[str, int]
) -> dict[int, int]:
    """Units that stay of the groups whose layers `keep` names, by the group's number."""
    counts: dict[int, int] = {}
    said: dict[int, str] = {}
    for name, number in keep.items():
        if name not in graph.layers:
            known = unknown(name, list(graph.layers))
            raise ValueError(f"keep[{name!r}]={number}: {known}")
        index, per_unit = _only_group(graph, rankings, name, number)
        group = rankings[index].group
        least, most = group.least * per_unit, group.num_units * per_unit
        if not least <= number <= most or number % per_unit:
            raise ValueError(
                f"keep[{name!r}]={number}: must be {_multiples(per_unit)} from {least} to {most}"
                + (": each group of a norm keeps two channels" if group.least > 1 else "")
            )
        units = number // per_unit
        if counts.setdefault(index, units) != units:
            raise ValueError(
                f"keep[{name!r}]={number}: its channels are those of {said[index]!r} too, which "
                f"keeps {keep[said[index]]}; name one of them"
            )
        said.setdefault(index, name)
    return counts


def _multiples(step: int) -> str:
    return "a whole number" if step == 1 else f"a multiple of {step}, for equal groups,"


def _only_group(
    graph: ChannelGraph, rankings: Sequence[Ranking], name: str, number: int
) -> tuple[int, int]:
    """The one group of a layer's outputs, and how many outputs a unit of it has."""
    outputs = graph.layers[name].outputs
    if not bool(graph.free[outputs].all()):
        raise ValueError(
            f"keep[{name!r}]={number}: its channels stay: they reach the output, are protected, "
            f"or tied to what cannot be pruned. Prunable are {', '.join(graph.prunable)}"
        )
    found = [i for i, each in enumerate(rankings) if name in each.group.layers]
    if len(found) > 1:
        others = {layer for i in found for layer in rankings[i].group.layers if layer != name}
        raise ValueError(
            f"keep[{name!r}]={number}: its channels are tied to those of several layers, which are "
            f"ranked apart; name these: {', '.join(sorted(others))}"
        )
    unit = rankings[found[0]].units[0]
    return found[0], int(torch.isin(outputs, unit).sum())


def _shares(rankings: Sequence[Ranking], amount: float, scope: Scope) -> list[int]:
    """Units that stay of each group."""
    counts = [each.group.num_units for each in rankings]
    if scope == "layer":
        least = [each.group.least for each in rankings]
        return [max(n - round(amount * n), m) for n, m in zip(counts, least, strict=True)]
    target = round(amount * sum(each.group.num_channels for each in rankings))
    # of equal values that of the longer ranking goes first: layers of one worth shrink alike
    order = sorted(
        (float(value), -place, index)
        for index, each in enumerate(rankings)
        for place, value in enumerate(each.values)
        if place >= each.group.least
    )
    for _, _, index in order:
        if rankings[index].unit_size <= target:
            target -= rankings[index].unit_size
            counts[index] -= 1
    return counts


def rounded(ranking: Ranking, count: int, round_to: int) -> int:
    """The number of units nearest to `count` whose channels are a multiple, or all of them.

    Of two that are as near the larger one. So that pruning round by round gets on: rounding up
    would stop at 16 channels for 8, whatever share below a half goes each time.
    """
    most = ranking.group.num_units
    levels = [
        u for u in range(ranking.group.least, most) if u * ranking.unit_size % round_to == 0
    ] + [most]
    return min(levels, key=lambda units: (abs(units - count), -units))


def plan_from_counts(
    graph: ChannelGraph, rankings: Sequence[Ranking], counts: Mapping[int, int]
) -> PruningPlan:
    """The plan that keeps so many of the best units of each group; of the others all.

    Raises:
        ValueError: Nothing would change.
    """
    if not _removes(rankings, counts):
        raise ValueError("nothing would change: every channel stays. Keep fewer")
    kept = torch.ones(graph.num_ids, dtype=torch.bool)
    for index, count in counts.items():
        for unit in rankings[index].units[count:]:
            kept[unit] = False
    return plan_for(graph, kept)


def _removes(rankings: Sequence[Ranking], counts: Mapping[int, int]) -> bool:
    return any(count < rankings[index].group.num_units for index, count in counts.items())


def _enough(rankings: Sequence[Ranking], amount: float, removes: Callable[[float], bool]) -> str:
    """What to do where an amount removes nothing: the first one, in thousandths, that does."""
    may_go = [each for each in rankings if each.group.least < each.group.num_units]
    if not may_go:
        return "No channel may go: all reach the output, are protected, or fewer are not allowed"
    total = sum(each.group.num_channels for each in rankings)
    step = min(each.unit_size for each in may_go)
    shares = (n / 1000 for n in range(int(amount * 1000) + 1, 1000))
    found = next((share for share in shares if removes(share)), None)
    todo = "lower round_to" if found is None else f"raise amount to {found:g}, or lower round_to"
    return f"Of {total} channels, {step} at least may go at a time: {todo}"
