"""Prune, train at a small rate, and again, as long as the net still answers as its parent did."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn

from raysb.prune.costs import macs, parameters, widths_of
from raysb.prune.graph import trace_channels
from raysb.prune.latency import fastest

Step = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Round:
    """One round.

    Args:
        small: The net that was cut, before rebirth.
        reborn: The same after training.
        agreement: Share of the rows for which it gives the parent's class, in [0, 1].
    """

    small: nn.Module
    reborn: nn.Module
    agreement: float


@dataclass(frozen=True)
class Rebirth:
    """What came of it.

    Args:
        rounds: Those that count, in order.
        undone: The one that fell below the bound and ended it, if one did.
    """

    rounds: tuple[Round, ...]
    undone: Round | None = None


def prune_and_rebirth(
    parent: nn.Module,
    prune: Step,
    train: Step,
    classes: Callable[[nn.Module], torch.Tensor],
    *,
    rounds: int = 3,
    agreement: float = 0.95,
) -> Rebirth:
    """Repeat pruning and training; stop before agreement with the parent falls below a bound.

    Args:
        parent: The trained net; is not changed.
        prune: Gives a smaller copy of a net.
        train: Gives a trained copy of a net, e.g. by Selective-Backprop at a tenth of the rate.
        classes: The class of every row of a held-out set. int [rows]
        rounds: At most so many, at least 1.
        agreement: Least share of rows with the parent's class, in [0, 1].

    Raises:
        ValueError: A number is out of range; from `prune`, if nothing would change.
    """
    if rounds < 1 or not 0 <= agreement <= 1:
        raise ValueError(
            f"prune_and_rebirth(rounds={rounds}, agreement={agreement}): must be at least 1, and "
            "in [0, 1]"
        )
    own, model, done = classes(parent), parent, list[Round]()
    for _ in range(rounds):
        small = prune(model)
        reborn = train(small)
        same = float((classes(reborn) == own).double().mean())
        found = Round(small, reborn, same)
        if same < agreement:
            return Rebirth(tuple(done), found)
        done.append(found)
        model = reborn
    return Rebirth(tuple(done))


@dataclass(frozen=True)
class Gain:
    """How much less a net takes than its parent, as factors.

    Args:
        parameters: Parameters, and bytes.
        macs: Multiply-accumulates of layers for one row.
        seconds: Time of a forward pass: the fastest of measurements that alternate, on a CPU in
            seconds of the process, so that whatever else a machine does matters little.
    """

    parameters: float
    macs: float
    seconds: float


def gain(parent: nn.Module, model: nn.Module, x: torch.Tensor, *, times: int = 25) -> Gain:
    """Compare a net with its parent on the rows `x`, the argument of forward of both."""
    graphs = [trace_channels(each, x) for each in (parent, model)]
    size = [parameters(graph)(widths_of(graph)) for graph in graphs]
    work = [macs(graph)(widths_of(graph)) for graph in graphs]
    clock = time.perf_counter if x.is_cuda else time.process_time
    best = [float("inf"), float("inf")]
    with torch.no_grad():
        for _ in range(times):
            for arm, each in enumerate((parent, model)):
                best[arm] = min(best[arm], fastest(each, x, clock=clock))
    return Gain(size[0] / size[1], work[0] / work[1], best[0] / best[1])


@dataclass(frozen=True)
class Outcome:
    """What pruning and rebirth made of a net, as numbers.

    Args:
        parent: Error of the parent, in [0, 1].
        before: Error of each round's net before rebirth.
        after: The same after it.
        agreement: Share of the rows with the parent's class, of each round.
        undone: Agreement of the round that was undone, if one was.
        gain: Of the last net that counts; the parent itself where none does.
    """

    parent: float
    before: tuple[float, ...]
    after: tuple[float, ...]
    agreement: tuple[float, ...]
    undone: float | None
    gain: Gain

    def as_json(self) -> dict[str, Any]:
        """Numbers and lists of them."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Self:
        """What `as_json` gave."""
        rounds = {name: tuple(given[name]) for name in ("before", "after", "agreement")}
        return cls(**given | rounds | {"gain": Gain(**given["gain"])})

    def __str__(self) -> str:
        """One line; errors are told as percentages."""
        pairs = zip(self.before, self.after, self.agreement, strict=True)
        told = [f"{b:.2%} to {a:.2%} (agreement {same:.3f})" for b, a, same in pairs]
        told += [] if self.undone is None else [f"undone (agreement {self.undone:.3f})"]
        gain = self.gain
        return (
            f"parent {self.parent:.2%}, by round {', '.join(told)}; {gain.parameters:.1f} times "
            f"smaller, {gain.macs:.1f} times fewer MACs, {gain.seconds:.1f} times faster"
        )


def outcome(
    parent: nn.Module,
    found: Rebirth,
    error: Callable[[nn.Module], float],
    x: torch.Tensor,
    *,
    times: int = 25,
) -> Outcome:
    """Judge what `prune_and_rebirth` found, by `error` on held-out rows and by `gain` on `x`."""
    last = found.rounds[-1].reborn if found.rounds else parent
    return Outcome(
        error(parent),
        tuple(error(each.small) for each in found.rounds),
        tuple(error(each.reborn) for each in found.rounds),
        tuple(each.agreement for each in found.rounds),
        None if found.undone is None else found.undone.agreement,
        gain(parent, last, x, times=times),
    )
