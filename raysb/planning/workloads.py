"""What a selector does to the rows of an epoch: scored and kept shares in closed form."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np

from raysb.planning.costs import UNIFORM, Work
from raysb.schema import Floats
from raysb.seeding import Draws
from raysb.selection import (
    ConfidenceBand,
    HighestK,
    LossDistribution,
    OrderedSGD,
    RandomSubset,
    RankSampling,
    SelectiveBackprop,
    Selector,
    StaleSelectiveBackprop,
    Uniform,
)
from raysb.selection.budgeted import BudgetedSelection
from raysb.selection.importance_sampling import PROBED, ImportanceSampling
from raysb.selection.info_batch import InfoBatch
from raysb.selection.keep_fraction import KeepFraction

# of losses that are spread exponentially; nearer .7 to .8 late in training
BELOW_MEAN = 1 - math.exp(-1)
NEVER_ON = 1e6  # a tau that no pool reaches
SIMULATED = 4096  # losses that stand for those of a selector without a closed form

_SHOWN = {  # what decides the kept fraction, and how it is called in a table
    "beta": "beta",
    "target_fraction": "target",
    "refresh_every": "n",
    "fraction": "f",
    "low": "low",
    "high": "high",
    "presample": "m",
    "prune_ratio": "r",
    "rows_per_epoch": "k",
}

EpochWork = Callable[[Selector, int, int, int], Work]  # (selector, epoch, epochs, rows)


def works_of(selector: Selector, epochs: int, num_rows: int) -> list[Work]:
    """What each epoch of a run is: read, scored and kept shares.

    Losses are taken to be continuous and stationary; `InfoBatch` to leave a share `BELOW_MEAN` of
    the rows below the mean loss; `ImportanceSampling` to be on, unless tau never passes its
    threshold; `OrderedSGD(fraction="auto")` to keep every row, as it does below 80 % of training
    accuracy, so that a run may take less than is said.

    Args:
        selector: As it is configured.
        epochs: Of the run, at least 1.
        num_rows: Rows of the data, at least 1.
    """
    rule = _rule(selector)
    return [rule(selector, epoch, epochs, num_rows) for epoch in range(epochs)]


def _rule(selector: Selector) -> EpochWork:
    for cls, rule in _RULES:
        if isinstance(selector, cls):
            return rule
    return _simulated


def _uniform(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    return UNIFORM


def _random(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    kept: float = selector.fraction  # type: ignore[attr-defined]
    return Work(read=kept, scored=0.0, kept=kept)


def _fraction(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    return Work(kept=float(selector.fraction))  # type: ignore[attr-defined]


def _ordered(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, OrderedSGD)
    return Work(kept=1.0 if selector.fraction == "auto" else selector.fraction)


def _band(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, ConfidenceBand)
    return Work(kept=selector.high - selector.low)


def _scheduled(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, KeepFraction)
    return Work(kept=selector.fraction if selector.selects_in(epoch) else 1.0)


def _selective(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, SelectiveBackprop)
    warm = epoch < selector.warmup_epochs
    return Work(kept=1.0 if warm else selector.expected_fraction())


def _stale(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    """Every n-th epoch scores all rows, or each epoch an n-th; others are drawn unread."""
    assert isinstance(selector, StaleSelectiveBackprop)
    whole = _selective(selector, epoch, epochs, rows)
    since_first = epoch - max(selector.warmup_epochs - 1, 0)
    n, kept = selector.refresh_every, whole.kept
    if since_first <= 0 or (not selector.staggered and since_first % n == 0):
        return whole
    due = 1 / n if selector.staggered else 0.0
    return Work(read=due + (1 - due) * kept, scored=due, kept=kept)


def _importance(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, ImportanceSampling)
    if selector.threshold >= NEVER_ON:
        return Work(scored=1 / PROBED, kept=1.0)
    return Work(kept=1 / selector.presample)


def _info_batch(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, InfoBatch)
    if epoch == 0 or epoch >= epochs - math.ceil(selector.anneal * epochs - 1e-9):
        return UNIFORM
    kept = 1 - selector.prune_ratio * BELOW_MEAN
    return Work(read=kept, scored=0.0, kept=kept)


def _budgeted(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    assert isinstance(selector, BudgetedSelection)
    kept = 1.0 if epoch == 0 else min(selector.rows_per_epoch / rows, 1.0)
    return Work(read=kept, scored=0.0, kept=kept)


def _simulated(selector: Selector, epoch: int, epochs: int, rows: int) -> Work:
    """A selector of somebody's own: asked what it takes of exponential losses."""
    ids = np.arange(SIMULATED)
    losses: Floats = np.random.default_rng(epoch).exponential(size=SIMULATED).astype(np.float32)
    scores = losses if selector.needs_scores else None
    seen = LossDistribution(losses) if selector.needs_scores else None
    chosen = selector.select(ids, scores, seen, Draws(seed=0, epoch=epoch))
    return Work(scored=float(selector.needs_scores), kept=len(chosen.indices) / SIMULATED)


_RULES: Sequence[tuple[type[Selector], EpochWork]] = (  # a subclass before its base
    (StaleSelectiveBackprop, _stale),
    (SelectiveBackprop, _selective),
    (Uniform, _uniform),
    (RandomSubset, _random),
    (ConfidenceBand, _band),
    (KeepFraction, _scheduled),
    (ImportanceSampling, _importance),
    (InfoBatch, _info_batch),
    (BudgetedSelection, _budgeted),
    (HighestK, _fraction),
    (OrderedSGD, _ordered),
    (RankSampling, _fraction),
)


def named(kind: str, selector: Selector) -> str:
    """A selector in few words: its kind, and what decides the kept fraction."""
    said = []
    for field in fields(type(selector)):  # type: ignore[arg-type]  # all are dataclasses
        value = getattr(selector, field.name)
        unused = field.name == "beta" and getattr(selector, "target_fraction", None) is not None
        plain = field.name == "refresh_every" and value == field.default
        if field.name in _SHOWN and value is not None and not unused and not plain:
            shown = value if isinstance(value, str) else f"{value:g}"
            said.append(f"{_SHOWN[field.name]} {shown}")
    return " ".join([kind, *said])
