"""Every row of every epoch is trained exactly once when all are selected, on any layout."""

import sys
from pathlib import Path

import numpy as np
import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import Case, run, run_locally

from raysb.selection import Adjustments, SelectiveBackprop, Uniform
from raysb.source.plan import PoolPlan

ray.cloudpickle.register_pickle_by_value(runs)
pytestmark = pytest.mark.ray

EVERYTHING = SelectiveBackprop(min_probability=1.0)
CASES = [
    Case(name="uniform", selector=Uniform(), stale="auto", count=203, pool=128, batch_size=8),
    Case(name="one", selector=EVERYTHING, stale="auto", count=203, pool=40),
    Case(name="two", selector=EVERYTHING, stale="auto", count=203, pool=40, actors=2, readers=0),
    Case(name="small", selector=EVERYTHING, stale="auto", count=61, pool=7, actors=2, batch_size=5),
    Case(name="large", selector=EVERYTHING, stale=None, count=203, pool=500, actors=2, readers=0),
]
CAPPED = Case(
    name="capped",
    selector=EVERYTHING,
    adjust=Adjustments(max_selected=1),
    forward=runs.scored_slowly,
    stale="auto",
    count=80,
    pool=40,
    actors=2,
    readers=0,
    epochs=4,
)


@pytest.mark.parametrize(
    ("workers", "cases"),
    [(1, CASES[:1]), pytest.param(1, CASES[1:], marks=pytest.mark.slow), (2, [*CASES, CAPPED])],
)
def test_every_id_is_trained_exactly_once_an_epoch(ray_cluster, tmp_path, workers, cases):
    outcomes = run(cases, tmp_path, workers=workers)
    for case in cases:
        spec = case.stream().spec
        plan = PoolPlan(
            num_rows=case.count, pool_rows=spec.pool_rows(case.batch_size), epochs=case.epochs
        )
        audit = outcomes[case.name].audit
        if case.adjust is not None:  # once in all epochs, though pools of two are scored at once
            np.testing.assert_array_equal(np.sort(audit["id"].to_numpy()), np.arange(case.count))
            continue
        epochs = plan.epoch_of(audit["pool"].to_numpy())
        for epoch in range(case.epochs):
            ids = np.sort(audit["id"].to_numpy()[epochs == epoch])
            np.testing.assert_array_equal(ids, np.arange(case.count), case.name)
        assert int(outcomes[case.name].numbers["backpropped"]) == case.count * case.epochs
        assert set(audit["probability"].to_pylist()) == {1.0}
        if workers == 1 and not spec.scored:  # and the local engine is a loop: tests/test_local.py
            local = run_locally(case, tmp_path / "local", workers=1)
            remote = outcomes[case.name].numbers["parameters"]
            np.testing.assert_array_equal(remote, local.numbers["parameters"])
