"""Whether many labels of a data set are wrong, told from the loss history of a run.

A net gives a wrong label less and less chance while it learns the rest: the chances of the labels
fall into two groups with few rows between. Of hard rows with right labels there are rows at every
chance. So what tells is not how many rows have a large loss but the valley before them:

    z = log((1 - p) / p),  p = exp(-loss) the chance that the net gives the label
    depth = 1 - density(valley) / min(density of the highest peak on either side)

of a kernel density of z. The valley counts where p is at most a half, at least `LEAST_SHARE` and at
most half of the rows lie beyond it, and its depth is at least `LEAST_DEPTH`. The mean loss over the
epochs and the loss of the last scoring are both looked at, and the deeper valley is taken: of a net
that has learned the wrong labels by heart only the mean still knows them.

Without such a valley, a run that mispredicts more than `MOST_UNLEARNED` of its rows at their last
scoring says nothing of labels: rows may be hard, or training too short, or Selective-Backprop has
pushed the losses of right and wrong labels together, as it does where many are wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]
Finding: TypeAlias = Literal["wrong", "unlearned", "right", "unknown"]

LEAST_SHARE = 0.02  # of the rows beyond the valley; below it a few odd rows make valleys
LEAST_DEPTH = 0.1
MOST_UNLEARNED = 0.15
LEAST_ROWS = 200  # a density of fewer has valleys by chance

_CELLS = 1024
_LOWEST, _HIGHEST = 1e-6, 50.0  # losses that float64 tells apart in z


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a history says of the labels.

    Args:
        finding: `wrong`: many are; `unlearned`: cannot be told, too many rows are not learned;
            `right`: no sign of many wrong ones; `unknown`: no prediction was ever judged, or there
            are too few rows.
        share: Of the rows beyond the valley; 0 without one.
        depth: Of the valley, in [0, 1].
        unlearned: Share of the rows that the last scoring mispredicted.
        num_rows: Rows with a finite loss.
    """

    finding: Finding
    share: float = 0.0
    depth: float = 0.0
    unlearned: float = 0.0
    num_rows: int = 0


def judge_labels(samples: Mapping[str, npt.NDArray[Any]], *, judged: bool = True) -> Labels:
    """Tell whether many labels are wrong.

    Args:
        samples: Columns `mean_loss`, `scored_loss` and `correct` of n ids, as `read_history` gives.
        judged: Whether predictions are right or wrong at all.
    """
    finite = np.isfinite(samples["mean_loss"]) & np.isfinite(samples["scored_loss"])
    count = int(finite.sum())
    if not judged or count < LEAST_ROWS:
        return Labels(finding="unknown", num_rows=count)
    found = [find_valley(samples[name][finite]) for name in ("mean_loss", "scored_loss")]
    depth, share = max(found)
    unlearned = float(1 - samples["correct"][finite].mean())
    if depth >= LEAST_DEPTH:
        finding: Finding = "wrong"
    else:
        finding, depth, share = ("unlearned" if unlearned > MOST_UNLEARNED else "right"), 0.0, 0.0
    return Labels(finding=finding, share=share, depth=depth, unlearned=unlearned, num_rows=count)


def find_valley(losses: npt.NDArray[Any]) -> tuple[float, float]:
    """The deepest valley in the chances of the labels.

    Args:
        losses: [n], finite, n at least 2; cross-entropies.

    Returns:
        Its depth in [0, 1], and the share of the losses beyond it; (0, 0) without one.
    """
    odds = np.log(np.expm1(np.clip(losses.astype(np.float64), _LOWEST, _HIGHEST)))
    width = _bandwidth(odds)
    if width == 0:
        return 0.0, 0.0
    edges = np.linspace(odds.min() - 3 * width, odds.max() + 3 * width, _CELLS + 1)
    counts = np.histogram(odds, edges)[0]
    density = _smooth(counts.astype(np.float64), width / (edges[1] - edges[0]))
    peaks = np.minimum(
        np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1]
    )  # the lower one of the highest on either side
    depth = 1 - density / np.maximum(peaks, np.finfo(np.float64).tiny)
    beyond = 1 - np.cumsum(counts) / len(odds)
    allowed = (edges[1:] >= 0) & (beyond >= LEAST_SHARE) & (beyond <= 0.5)
    deepest = int(np.argmax(np.where(allowed, depth, -1.0)))
    if not allowed[deepest] or depth[deepest] <= 0:
        return 0.0, 0.0
    return float(depth[deepest]), float(beyond[deepest])


def _bandwidth(values: Doubles) -> float:
    """Silverman's rule: .9 min(sd, interquartile range / 1.34) n^(-1/5)."""
    quartiles = np.quantile(values, [0.25, 0.75])
    spread = min(float(values.std()), float(quartiles[1] - quartiles[0]) / 1.34)
    return float(0.9 * spread * len(values) ** -0.2)


def _smooth(counts: Doubles, width: float) -> Doubles:
    """Counts under a Gaussian kernel whose width is given in cells."""
    reach = min(int(4 * width) + 1, len(counts) // 2 - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.convolve(counts, kernel / kernel.sum(), "same")
