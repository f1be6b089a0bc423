"""What a stream cannot be made of is refused before anything starts."""

import pytest
from torch import nn

import raysb
from raysb.selection import RandomSubset


def test_a_selector_that_would_never_be_asked_is_refused() -> None:
    """Where nothing is scored every row is trained: a run kept all of them, without a word."""
    with pytest.raises(ValueError, match="RandomSubset selects without scores"):
        raysb.SelectiveStream(
            "digits",
            model=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            loss=raysb.losses.cross_entropy("label"),
            selector=RandomSubset(fraction=0.5),
        )
