"""What a stream cannot be made of is refused before anything starts."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import nn

import raysb
from raysb.selection import RandomSubset, StaleSelectiveBackprop


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


def test_columns_of_scoring_are_refused_where_some_rows_are_not_scored() -> None:
    with pytest.raises(ValueError, match=r"extra=\['twice'\] with StaleSelectiveBackprop"):
        stream(
            selector=StaleSelectiveBackprop(),
            extra={"twice": lambda outputs, batch: outputs.sum(1) * 2},
        )
