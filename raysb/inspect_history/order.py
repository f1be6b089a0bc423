"""Which samples come first: by what the history says of them.

suspicion  wrong labels first: the mean of two ranks, that of the mean loss and that of the last one
loss       last loss
mean_loss  mean loss over all epochs
forgetting forgetting events, then mean loss
selected   times selected, then mean loss
never      never predicted rightly, by mean loss; all others are left out

A net that has not learned wrong labels by heart tells them best by its last loss; one that has, by
the mean over the epochs before. `suspicion` needs no decision which of the two it is
(`pipelines/find_suspects.py` has the figures).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.history.records import NEVER
from raysb.inspect_history.records import RunHistory, Samples

Values = npt.NDArray[Any]

SUSPICION = "suspicion"
ORDERS: dict[str, Callable[[Samples], tuple[Values, ...]]] = {
    SUSPICION: lambda samples: (suspicion(samples), samples["mean_loss"]),
    "loss": lambda samples: (samples["loss"],),
    "mean_loss": lambda samples: (samples["mean_loss"],),
    "forgetting": lambda samples: (samples["forgetting_events"], samples["mean_loss"]),
    "selected": lambda samples: (samples["times_selected"], samples["mean_loss"]),
    "never": lambda samples: (samples["mean_loss"],),
}
SHOWN = {  # the column that tells most of a sample in this order
    SUSPICION: "mean_loss",
    "loss": "loss",
    "mean_loss": "mean_loss",
    "forgetting": "forgetting_events",
    "selected": "times_selected",
    "never": "mean_loss",
}
OF_LEARNING = ("forgetting", "never")  # need a right and a wrong


def order(history: RunHistory, by: str) -> npt.NDArray[np.int64]:
    """Positions of the samples, the most telling first; equal ones by id, without a loss last.

    Args:
        history: What is known of n samples.
        by: A key of `ORDERS`.

    Returns:
        int64 [n]; of `never` only those that were never predicted rightly.

    Raises:
        ValueError: There is no such order, or none of learning since nothing was ever right.
    """
    if by not in ORDERS:
        raise ValueError(f"by={by}: must be one of {', '.join(ORDERS)}")
    if by in OF_LEARNING and not history.judged:
        raise ValueError(
            f"by={by}: no prediction of the run ever was right, so nothing was learned or "
            "forgotten; a regression knows no right and wrong, and a run that scores nothing "
            "judges no row. Order by "
            f"{', '.join(name for name in ORDERS if name not in OF_LEARNING)}"
        )
    keys = ORDERS[by](history.samples)
    rows = np.lexsort([-key.astype(np.float64) for key in reversed(keys)])  # NaN comes last
    if by == "never":
        rows = rows[history.samples["first_learned_epoch"][rows] == NEVER]
    return rows


def words(by: str) -> str:
    """An order in words, as a heading."""
    return "never predicted rightly, by mean_loss" if by == "never" else f"by {by}"


def suspicion(samples: Samples) -> npt.NDArray[np.float64]:
    """How much a sample looks like one with a wrong label, in (0, 1).

        suspicion = (rank(mean loss) + rank(last loss)) / 2

    rank(x) = (#less + #equal / 2) / n. A sample without a finite loss ranks below all others.

    Args:
        samples: Columns of n samples.
    """
    return (_ranks(samples["mean_loss"]) + _ranks(samples["loss"])) / 2


def _ranks(values: Values) -> npt.NDArray[np.float64]:
    known = np.where(np.isnan(values), -np.inf, values)
    _, place, counts = np.unique(known, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    ranks: npt.NDArray[np.float64] = ((below + counts / 2) / max(len(values), 1))[place]
    return ranks
