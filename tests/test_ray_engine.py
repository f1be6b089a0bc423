"""What a run on Ray says before it starts; no cluster is needed for it."""

import re

import numpy as np
import pytest
from torch import nn

from raysb import Data, Scoring, SelectiveTrainer, Training, Uniform
from raysb.losses import cross_entropy
from raysb.ray_engine import scorers_held_back

ROWS = {"x": np.zeros((64, 3), np.float32), "label": np.zeros(64, np.int64)}


@pytest.mark.parametrize(
    ("number", "bound", "told"),
    [
        (4, 0, None),
        ((1, 4), "auto", None),
        ((1, 4), None, None),
        ((2, 4), 0, "there will be 2 at most, since under .*=0 .lockstep. more would take turns"),
        ((1, 4), 4, "num_actors=1,4: there will be 1 at most, since under .*max_staleness_steps=4"),
    ],
)
def test_scorers_that_the_bound_on_ages_has_no_work_for_are_told_of(number, bound, told) -> None:
    scoring = Scoring(num_actors=number, max_staleness_steps=bound, batch_size=16)
    common = {
        "model": lambda: nn.Linear(3, 2),
        "loss": cross_entropy("label"),
        "datasets": {"train": ROWS},
        "data": Data(inputs=("x",)),
        "training": Training(batch_size=8, use_gpu=False),
        "scoring": scoring,
    }
    found = scorers_held_back(SelectiveTrainer(**common).job)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(told, found), found
    assert scorers_held_back(SelectiveTrainer(**common, selector=Uniform()).job) is None
