"""The exponent of Selective-Backprop that keeps a wanted share of recent losses."""

import numpy as np
import numpy.typing as npt

RECENT_LOSSES = 1024  # the 95 % error of a share kept among so many is below .02
_TOLERANCE = 1e-6
_SMALLEST = 1e-6
_STEPS = 100


def recent_enough(rows: int, size: int) -> int:
    """How many of the last losses tell what the losses are like now.

    Few follow a drift closely. But of one pool alone each pool would be kept at the target, the
    easy ones too, as if every scorer ranked its own losses only. Half of the distribution at most:
    in all of it ranks are uniform, whatever the drift.

    Args:
        rows: Of the pool, n; all of it counts.
        size: Losses in the distribution, R.
    """
    return max(rows, min(RECENT_LOSSES, size // 2))


def solve_beta(ranks: npt.NDArray[np.float64], floor: float, target: float) -> float:
    """Solve mean(max(s, ranks^beta)) = target for beta.

    The mean falls with beta and is convex, so Newton's steps from the left never overshoot: it is
    approached from above, and the steps end within 1e-6 of the target.

    Args:
        ranks: float64 [m] in [0, 1], m at least 1.
        floor: s, in [0, target).
        target: Above s and below 1.

    Returns:
        Beta above 0. Where so many ranks are 0 that no beta keeps enough (with `ties="strict"`),
        one so small that all other rows are kept.
    """
    logs, beta = np.log(ranks[ranks > 0]), _SMALLEST
    for _ in range(_STEPS):
        powers = np.exp(beta * logs)
        above = powers > floor
        kept = (powers[above].sum() + floor * (len(ranks) - np.count_nonzero(above))) / len(ranks)
        slope = float((powers[above] * logs[above]).sum()) / len(ranks)
        if kept - target <= _TOLERANCE or slope == 0:
            break
        beta -= float(kept - target) / slope
    return beta
