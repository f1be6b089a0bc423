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

What the valley does not explain must be learned: where more than `MOST_UNLEARNED` of the rows are
mispredicted at the last scoring and do not lie beyond it, as after a short run, whose losses fall
into groups of their own, nothing is said of labels. Rows may be hard, or training too short, or
Selective-Backprop has pushed the losses of right and wrong labels together, as it does where many
are wrong. Nor is a class that is not learned yet, as a rare one, a group of wrong labels: where the
labels are given, rows of a class that lies beyond the valley by more than half do not count.
Without the labels that class cannot be told from wrong ones.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Doubles: TypeAlias = npt.NDArray[np.float64]
Finding: TypeAlias = Literal["wrong", "unlearned", "right", "unknown"]

LEAST_SHARE = 0.02  # of the rows beyond the valley; below it a few odd rows make valleys
LEAST_DEPTH = 0.1
MOST_UNLEARNED = 0.15
LEAST_ROWS = 200  # a density of fewer has valleys by chance
# Epochs after which a verdict has settled. In pipelines/records/detect_wrong_labels_* 9 of 24 on
# right labels were wrong after one or two (rows learned late lay apart), of 12 after three none.
SETTLED_EPOCHS = 3

_CELLS = 1024
_LOWEST, _HIGHEST = 1e-6, 50.0  # losses that float64 tells apart in z


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a history says of the labels.

    Args:
        finding: `wrong`: many are; `unlearned`: cannot be told, too many rows are not learned;
            `right`: no sign of many wrong ones; `unknown`: no prediction was ever judged, or there
            are too few rows.
        share: Of the rows that look wrong; 0 unless the finding is `wrong`.
        depth: Of the valley before them, in [0, 1]; 0 unless the finding is `wrong`.
        unlearned: Share of the rows that the last scoring mispredicted.
        easy: Share of the rows whose label had a chance of a half or more at the last scoring.
        num_rows: Rows with a finite loss.
        by_class: Whether classes that are not learned were told from wrong labels.
        unlearned_classes: Those of which more than half lies beyond the valley.
        num_epochs: That the run had begun; 0: not known.
    """

    finding: Finding
    share: float = 0.0
    depth: float = 0.0
    unlearned: float = 0.0
    easy: float = 0.0
    num_rows: int = 0
    by_class: bool = False
    unlearned_classes: tuple[int, ...] = ()
    num_epochs: int = 0

    @property
    def settled(self) -> bool:
        """Whether the run was long enough for the verdict to hold."""
        return self.num_epochs == 0 or self.num_epochs >= SETTLED_EPOCHS


class Valley(NamedTuple):
    """A valley in the chances of the labels."""

    depth: float  # in [0, 1]; 0: there is none
    share: float  # of the rows beyond it
    loss: float  # at its bottom


NO_VALLEY = Valley(0.0, 0.0, math.inf)


def judge_labels(
    samples: Mapping[str, npt.NDArray[Any]],
    *,
    judged: bool = True,
    classes: npt.NDArray[np.int64] | None = None,
) -> Labels:
    """Tell whether many labels are wrong.

    Args:
        samples: Columns `mean_loss`, `scored_loss` and `correct` of n ids, as `read_history` gives.
        judged: Whether predictions are right or wrong at all.
        classes: [n], the label that each id has in the data; none: not known.
    """
    finite = np.isfinite(samples["mean_loss"]) & np.isfinite(samples["scored_loss"])
    count = int(finite.sum())
    if not judged or count < LEAST_ROWS:
        return Labels(finding="unknown", num_rows=count)
    unlearned = float(1 - samples["correct"][finite].mean())
    easy = float((samples["scored_loss"][finite] <= math.log(2)).mean())
    known = Labels(
        finding="right",
        unlearned=unlearned,
        easy=easy,
        num_rows=count,
        by_class=classes is not None,
    )
    found = {name: find_valley(samples[name][finite]) for name in ("mean_loss", "scored_loss")}
    name, valley = max(found.items(), key=lambda item: item[1])
    if valley.depth >= LEAST_DEPTH and unlearned - valley.share <= MOST_UNLEARNED:
        beyond = samples[name][finite] > valley.loss
        whole = () if classes is None else _mostly_beyond(beyond, classes[finite])
        if whole and classes is not None:
            beyond &= ~np.isin(classes[finite], whole)
        share, known = float(beyond.mean()), replace(known, unlearned_classes=whole)
        if share >= LEAST_SHARE:
            return replace(known, finding="wrong", share=share, depth=valley.depth)
        return replace(known, finding="unlearned")
    return replace(known, finding="unlearned" if unlearned > MOST_UNLEARNED else "right")


def _mostly_beyond(
    beyond: npt.NDArray[np.bool_], classes: npt.NDArray[np.int64]
) -> tuple[int, ...]:
    """Classes of which more than half lies beyond: wrong labels are the lesser part of a class."""
    names, of = np.unique(classes, return_inverse=True)
    share = np.bincount(of, beyond) / np.bincount(of)
    return tuple(int(name) for name in names[share > 0.5])


def find_valley(losses: npt.NDArray[Any]) -> Valley:
    """The deepest valley in the chances of the labels; `NO_VALLEY` without one.

    Args:
        losses: [n], finite, n at least 2; cross-entropies.
    """
    odds = np.log(np.expm1(np.clip(losses.astype(np.float64), _LOWEST, _HIGHEST)))
    width = _bandwidth(odds)
    if width == 0:
        return NO_VALLEY
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
        return NO_VALLEY
    bottom = float(np.logaddexp(0, edges[deepest + 1]))  # the loss with these odds
    return Valley(float(depth[deepest]), float(beyond[deepest]), bottom)


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
