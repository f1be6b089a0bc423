"""The measurement: sane where costs are known, and without a trace."""

import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from raysb.config import load
from raysb.job import Silent
from raysb.planning.choosing import select_seconds
from raysb.planning.measure import measure
from raysb.prepare import build_job, open_data, resolve
from raysb.selection import HighestK, ImportanceSampling, RandomSubset, SelectiveBackprop


class Slow(nn.Module):
    """Burns CPU time: so many units forward, so many more backward; and is linear."""

    forward_s, backward_s = 2e-5, 6e-5  # a row

    def __init__(self, inputs: int = 64) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        burn(self.forward_s * len(rows))
        return self.head(Backward.apply(rows.flatten(1).float(), self.head.weight))


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight):
        ctx.rows, ctx.weight = len(rows), weight.shape
        return rows.clone()

    @staticmethod
    def backward(ctx, gradient):
        burn(Slow.backward_s * ctx.rows)
        return gradient, torch.zeros(ctx.weight)


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def job_of(*flags: str, model=None):
    words = ["--data.train", "digits", "--model.name", "mlp", "--train.use_gpu", "false"]
    config = load(None, [*words, *flags])
    sources = open_data(config)
    config = resolve(replace(config, run=replace(config.run, loggers=())), sources)
    job = build_job(config, sources, Silent(), False)
    if model is None:
        return job
    return replace(job, spec=replace(job.spec, task=replace(job.spec.task, model=model)))


def test_the_ratio_of_a_model_whose_passes_are_known_is_found() -> None:
    """20 us forward and 60 backward: r = .25, and somewhat more for ranking and records."""
    found = measure(job_of(model=Slow), seconds=2.0)
    assert (found.clock, found.threads, found.device) == ("CPU", 1, "cpu")
    assert found.forward["float32"] / found.train == pytest.approx(0.25, abs=0.08)
    assert 0.2 < found.costs().ratio < 0.5
    assert 80e-6 < found.train < 160e-6
    assert 0 < found.read < found.train / 4


@pytest.mark.parametrize("kind", ["selective_backprop", "uniform", "random_subset"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_figure_is_there_whatever_is_configured(kind, dtype) -> None:
    flags = ("--selector.kind", kind, "--scoring.dtype", dtype, "--train.batch_size", "1000")
    found = measure(job_of(*flags), seconds=0.3)
    assert {*found.forward} == {"float32", "bfloat16"}
    assert found.dtype == dtype
    assert found.rounds >= 3
    assert min(found.read, found.train, found.score, found.bound, *found.forward.values()) > 0
    assert found.score >= found.forward[dtype]
    assert found.elsewhere is None


def test_nothing_is_left_behind() -> None:
    threads, drawn = torch.get_num_threads(), torch.random.get_rng_state()
    selector = SelectiveBackprop()
    built, build = [], job_of("--train.num_threads", "1").spec.task.model

    def model() -> nn.Module:
        built.append(build())
        return built[-1]

    job = job_of("--train.num_threads", "1", model=model)
    measure(replace(job, spec=replace(job.spec, selector=selector)), seconds=0.3)
    fresh = job.spec.task.build(job.spec.seed).state_dict()
    assert all(torch.equal(v, fresh[k]) for k, v in built[0].state_dict().items())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert selector.metrics()["num_offered"] == 0


def test_a_selector_that_takes_long_to_choose_costs_more_and_counts_nothing() -> None:
    class Long(HighestK):
        def select(self, ids, scores, distribution, draws):
            burn(1e-5 * len(ids))
            return super().select(ids, scores, distribution, draws)

    assert select_seconds(Long(), 256) > select_seconds(HighestK(), 256) + 8e-6
    selector = Long()
    select_seconds(selector, 256)
    assert selector.metrics()["num_offered"] == 0
    found = measure(job_of(), seconds=0.3)
    assert found.costs_of(Long()).score > found.costs_of(HighestK()).score + 5e-6
    assert found.costs_of(RandomSubset()) == found.costs()


def test_a_score_of_its_own_is_charged_its_own_forward_pass() -> None:
    found = measure(job_of(), seconds=0.3)
    dear = replace(found, bound=found.forward["float32"] + 1.0)
    extra = dear.costs_of(ImportanceSampling()).score - dear.costs().score
    assert extra == pytest.approx(1.0, abs=0.01)


def test_few_rows_are_measured_too() -> None:
    job = job_of()
    few = job.spec.source.read(None, 0, 5)
    from raysb.source.arrays import ArraySource

    spec = replace(job.spec, source=ArraySource(few, seed=0))
    found = measure(replace(job, spec=spec), seconds=0.3)
    assert np.isfinite(found.train)
    assert found.batch_size <= 5


PROXY = """
import torch
from tests_slow import Slow

class Quick(Slow):
    forward_s = 2e-6

def build():
    return Quick()
"""


def test_a_proxy_is_what_scoring_takes_the_time_of(tmp_path, monkeypatch) -> None:
    """2 us a row in place of the 20 of the model that is trained."""
    (tmp_path / "tests_quick.py").write_text(PROXY)
    monkeypatch.setitem(sys.modules, "tests_slow", sys.modules[__name__])
    monkeypatch.syspath_prepend(tmp_path)
    job = job_of(model=Slow)
    scoring = replace(job.spec.scoring, proxy="tests_quick:build", min_agreement=-1.0)
    found = measure(replace(job, spec=replace(job.spec, scoring=scoring)), seconds=2.0)
    assert found.proxy == "tests_quick:build"
    assert found.forward["float32"] < 10e-6
    assert found.costs().score == found.score  # of the proxy, not of the model
    assert found.train > 80e-6
    plain = measure(job, seconds=0.5)
    assert plain.proxy is None
    assert plain.score > found.score + 8e-6


def test_micro_batches_and_the_strategies_of_one_process_are_measured_as_they_train() -> None:
    few = job_of("--train.strategy", "single", "--train.accumulate", "4")
    assert measure(few, seconds=2.0).batch_size == 64
    odd = job_of("--train.batch_size", "1200", "--train.accumulate", "1200")
    assert measure(odd, seconds=0.3).train > 0  # of fewer rows than it divides
