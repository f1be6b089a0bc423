"""What pruning and rebirth came to, as lines of a record: errors by criterion, factors over all."""

from collections.abc import Mapping, Sequence
from functools import partial

from bench.measures import Measure
from raysb.prune.rebirth import Outcome

CONTROL = "none"  # trained on as long, and not cut


def measures(
    part: str,
    found: Mapping[str, Sequence[Outcome]],
    allowed: float,
    least: Mapping[str, float],
) -> list[Measure]:
    """One line a criterion, one a factor.

    Args:
        part: What was pruned.
        found: By criterion, what became of each parent.
        allowed: Points of error, in percent, that a parent's pruning may cost.
        least: Factors aimed at, by the names of `Gain`; over all criteria but the control.
    """
    line = partial(Measure, part=part)
    errors = [
        line(
            name=f"{name}: points of error more than its parent",
            values=[100 * (each.after[-1] - each.parent) for each in outcomes if each.after],
            at_most=allowed,
            note="; ".join(map(str, outcomes)),
        )
        for name, outcomes in found.items()
    ]
    cut = [each.gain for name, outcomes in found.items() if name != CONTROL for each in outcomes]
    factors = [
        line(name=f"factor of {n}", values=[getattr(each, n) for each in cut], at_least=goal)
        for n, goal in least.items()
    ]
    return [*errors, *factors]
