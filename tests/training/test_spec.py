"""What a stream cannot be made of is refused before anything starts."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from torch import nn

import raysb
from raysb.scoring.limits import FRESH_STEPS
from raysb.selection import (
    Adjustments,
    BudgetedSelection,
    InfoBatch,
    RandomSubset,
    SelectiveBackprop,
    StaleSelectiveBackprop,
    Uniform,
)
from raysb.source.arrays import ArraySource
from raysb.task import Task
from raysb.training.spec import TRANSPORT_BATCHES, StreamSpec


def stream(**settings) -> raysb.SelectiveStream:
    return raysb.SelectiveStream(
        "digits",
        model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        loss=raysb.losses.cross_entropy("label"),
        **settings,
    )


def test_a_selector_that_would_never_be_asked_is_refused() -> None:
    """Where nothing is scored every row is trained: a run kept all of them, without a word."""

    @dataclass(kw_only=True)
    class Late(RandomSubset):
        preselects: ClassVar[bool] = False

    with pytest.raises(ValueError, match="Late selects without scores and does not preselect"):
        stream(selector=Late(fraction=0.5))


@pytest.mark.parametrize(
    ("chosen", "awaits"),
    [
        ({"selector": SelectiveBackprop()}, False),
        ({"selector": BudgetedSelection()}, True),  # draws by what all rows have left
        ({"selector": SelectiveBackprop(), "adjust": Adjustments(max_selected=3)}, True),
        ({"selector": SelectiveBackprop(), "adjust": Adjustments(explore=0.1)}, False),
    ],
    ids=str,
)
def test_an_epoch_waits_for_those_before_it_where_it_is_chosen_by_them(chosen, awaits) -> None:
    assert stream(**chosen).spec.awaits_epochs is awaits


@pytest.mark.parametrize("selector", [BudgetedSelection(), InfoBatch()])
def test_a_bound_on_ages_says_nothing_where_no_score_has_one(selector) -> None:
    of = lambda bound: stream(  # noqa: E731
        selector=selector, scoring=raysb.Scoring(max_staleness_steps=bound)
    ).spec.limits_as_grown(64, 2)
    assert of(1) == of(8) == of("auto")
    assert of(0)[0].lockstep


def test_columns_of_scoring_are_refused_where_some_rows_are_not_scored() -> None:
    with pytest.raises(ValueError, match=r"extra=\['twice'\] with StaleSelectiveBackprop"):
        stream(
            selector=StaleSelectiveBackprop(),
            extra={"twice": lambda outputs, batch: outputs.sum(1) * 2},
        )


@pytest.mark.parametrize(
    ("selector", "bound", "fresh"),
    [
        (SelectiveBackprop(beta=2.0), "auto", FRESH_STEPS),
        (SelectiveBackprop(beta=2.0), 20, 0),  # whoever names a bound means it throughout
        (SelectiveBackprop(beta=1.0), "auto", 0),
        (RandomSubset(), "auto", 0),
    ],
)
def test_auto_starts_fresh_with_the_selectors_that_old_scores_stall(selector, bound, fresh) -> None:
    scoring = raysb.Scoring(max_staleness_steps=bound)
    limits = stream(selector=selector, scoring=scoring).spec.limits(64, 1)
    assert limits.fresh_steps == fresh


@pytest.mark.parametrize(
    ("shape", "count", "batch_size", "rows"),
    [
        ((28, 28), 60_000, 64, 3_712),  # 60,000 / 16 = 3,750, in whole batches
        ((4,), 200_000, 64, 64 * TRANSPORT_BATCHES),
        ((512, 512, 3), 4_000, 8, 40),  # 42 pictures are 32 MiB
        ((512, 512, 3), 4_000, 64, 64),  # never less than a batch
        ((4,), 100, 32, 32),
    ],
)
def test_unscored_rows_travel_in_whole_batches_as_many_as_memory_and_workers_allow(
    shape, count, batch_size, rows
) -> None:
    row = np.zeros((1, *shape), np.uint8)
    source = ArraySource({"image": np.broadcast_to(row, (count, *shape))})  # of one row's memory
    task = Task(
        model=nn.Identity, forward=raysb.inputs("image"), loss=lambda outputs, batch: outputs
    )
    spec = StreamSpec(source=source, task=task, selector=Uniform(), scoring=raysb.Scoring())
    assert spec.pool_rows(batch_size) == rows
