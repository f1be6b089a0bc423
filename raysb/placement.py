"""On which machines the processes of a run lie: by custom resources, or beside the driver.

A custom resource is a name that some machines offer an amount of (`resources: {scorer: 8}` in
`cluster.yaml`, `ray start --resources`); what asks for it lies on these machines alone.
"""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

OWN_KEYS = {"CPU": "num_cpus", "GPU": "num_gpus"}  # these have settings of their own
LEAST = 1e-3  # Ray counts in ten-thousandths, and a reader asks for a tenth
READER_CPUS = 0.1  # readers mostly wait; the cap on their number is what bounds them
READER_SHARE = 0.1  # of what a scorer takes of a custom resource
# Calls that ledger and board let begin; Ray only counts them. Those asleep, two of every reader and
# scorer, must never be so many: whoever would wake them would wait behind them.
SLEEPERS = 1_000_000


def check_resources(section: str, resources: Any) -> None:
    """Refuse what Ray would refuse, or count as nothing, only when the first actor starts.

    Args:
        section: `scoring` or `train`.
        resources: Amounts by name.

    Raises:
        TypeError: It is no table.
        ValueError: A name or an amount that Ray does not take.
    """
    key = f"{section}.resources"
    if not isinstance(resources, Mapping):
        raise TypeError(f"{key}={resources!r}: must be a table of amounts by name")
    for name, amount in resources.items():
        if not (isinstance(name, str) and name and name.isascii()):
            raise ValueError(f"{key}={resources!r}: the name {name!r} must be ASCII text")
        if name in OWN_KEYS:
            raise ValueError(
                f"{key}={resources!r}: {name} is asked for by {section}.{OWN_KEYS[name]}"
            )
        fits = isinstance(amount, Real) and not isinstance(amount, bool)
        if not fits or not math.isfinite(amount) or amount < LEAST:
            raise ValueError(
                f"{key}={resources!r}: {name}={amount!r} must be a finite number of at least "
                f"{LEAST:g}"
            )


def check_range(key: str, value: Any) -> None:
    """Refuse what is neither a number of processes nor a pair of them.

    Args:
        key: Of the setting.
        value: A whole number of at least 1, or two of them, the first not above the second.

    Raises:
        ValueError: It is something else.
    """
    pair = value if isinstance(value, tuple) else (value, value)
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in pair)
    if len(pair) == 2 and whole and 1 <= pair[0] <= pair[1]:
        return
    if len(pair) == 2 and whole and pair[0] > pair[1] >= 1:
        raise ValueError(
            f"{key}={value!r}: the fewest come first, then the most: {pair[1]},{pair[0]}"
        )
    raise ValueError(
        f"{key}={value!r}: must be a whole number of at least 1, or two of them, the fewest and "
        "the most, as 2,8"
    )


def least_of(number: "int | tuple[int, int]") -> int:
    """The fewest processes that a setting allows."""
    return number[0] if isinstance(number, tuple) else number


def most_of(number: "int | tuple[int, int]") -> int:
    """The most processes that a setting allows."""
    return number[1] if isinstance(number, tuple) else number


def range_text(number: "int | tuple[int, int]") -> str:
    """`2`, or `2 to 8`."""
    least, most = least_of(number), most_of(number)
    return f"{least}" if least == most else f"{least} to {most}"


def amounts(resources: Mapping[str, float], share: float = 1.0) -> dict[str, float]:
    """A share of custom resources, in the ten-thousandths that Ray counts in."""
    return {name: round(share * amount, 4) for name, amount in resources.items()}


def beside_driver() -> Any:
    """Ray's strategy for an actor whose loss ends the run: on the machine of whoever starts it.

    Ray puts an actor that asks for nothing onto any machine, one that may be taken away among
    them. With the driver's machine the run ends anyway, so nothing more can be lost.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
