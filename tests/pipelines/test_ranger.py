"""The comparison of optimizers: the rate is chosen on seed 0, other seeds are reported."""

import importlib
from pathlib import Path

import pytest
from matplotlib import pyplot

from raysb.optim import Ranger

PIPELINES = Path(__file__).parents[2] / "pipelines"


def test_the_rate_is_chosen_on_seed_0_and_other_seeds_are_reported(monkeypatch):
    monkeypatch.syspath_prepend(PIPELINES)
    module = importlib.import_module("ranger")
    monkeypatch.setattr(module, "RATES", (1e-6, 0.016))
    monkeypatch.setattr(module, "SEEDS", (3,))
    monkeypatch.setattr(module, "OPTIMIZERS", {"Ranger": Ranger})
    figure, axis = pyplot.subplots()
    (measure,) = module.compare("digits", "", 3, axis)
    pyplot.close(figure)
    assert (measure.part, measure.name) == ("a", "Ranger, lr 0.016")
    slow, fast = map(float, measure.note.split(": ")[1].split())
    assert fast < 60 < slow
    assert measure.values == [module.error("digits", "", 3, Ranger, 0.016, 3)]
    line, dots = axis.lines
    assert list(line.get_ydata()) == pytest.approx([slow, fast], abs=0.01)
    assert list(dots.get_ydata()) == measure.values
