"""Rows that are chosen before they are read, on Ray: the same rows as in one process."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import Case, run, run_locally

from raysb.selection import (
    BudgetedSelection,
    ImportanceSampling,
    InfoBatch,
    RandomSubset,
    StaleSelectiveBackprop,
)

ray.cloudpickle.register_pickle_by_value(runs)
pytestmark = pytest.mark.ray

STALE = {"beta": 1.0, "history": 64, "refresh_every": 2}


def trained(outcome):
    """(step, pool, id, probability) of every trained row."""
    columns = outcome.audit.select(["step", "pool", "id", "probability"])
    return sorted(zip(*(column.to_pylist() for column in columns.columns), strict=True))


def by_step(outcome):
    """(step, id, probability) of every trained row."""
    return sorted((step, i, p) for step, _, i, p in trained(outcome))


STAGGERED = StaleSelectiveBackprop(**STALE, staggered=True)
IMPORTANCE = ImportanceSampling(tau_threshold=1.02, history=256)
CASES = [
    Case(name="stale", actors=3, epochs=3, selector=StaleSelectiveBackprop(**STALE)),
    Case(name="importance", actors=2, epochs=3, readers=0, selector=IMPORTANCE),
    Case(name="budget", actors=2, epochs=3, selector=BudgetedSelection(rows_per_epoch=77)),
]
MORE = [
    Case(name="staggered", actors=2, epochs=4, readers=0, count=173, pool=19, selector=STAGGERED),
    Case(name="info", actors=2, epochs=3, selector=InfoBatch()),
]


@pytest.mark.parametrize(
    ("workers", "cases"),
    [
        (2, CASES),
        pytest.param(2, MORE, marks=pytest.mark.slow),
        pytest.param(1, CASES + MORE, marks=pytest.mark.slow),
    ],
)
def test_lockstep_on_ray_draws_the_rows_of_the_local_engine(ray_cluster, tmp_path, workers, cases):
    outcomes = run(cases, tmp_path, workers=workers)
    for case in cases:
        local = run_locally(case, tmp_path / "local", workers=workers)
        remote = outcomes[case.name]
        if case.selector.needs_scores:  # where nothing is scored, pools depend on the batch
            assert trained(remote) == trained(local), case.name
        assert by_step(remote) == by_step(local), case.name
        assert int(remote.numbers["scored"]) == local.numbers["scored"]
        np.testing.assert_allclose(
            remote.numbers["parameters"], local.numbers["parameters"], rtol=0, atol=1e-12
        )
        theirs, ours = remote.handle.history.export(), local.handle.history.export()
        np.testing.assert_array_equal(theirs["id"], ours["id"])
        np.testing.assert_array_equal(theirs["times_selected"], ours["times_selected"])
        np.testing.assert_array_equal(theirs["times_scored"], ours["times_scored"])
        np.testing.assert_allclose(theirs["loss"], ours["loss"], rtol=1e-5)


def test_out_of_step_no_row_is_lost_and_only_refreshing_epochs_score(ray_cluster, tmp_path):
    everything = StaleSelectiveBackprop(min_probability=1.0, refresh_every=3)
    cases = [
        Case(name="all", actors=3, epochs=4, stale="auto", count=400, selector=everything),
        # pools of 32 rows for batches of 8 and of 16: RandomSubset draws within each
        Case(name="lot", epochs=3, stale="auto", count=512, selector=RandomSubset(fraction=0.3)),
    ]
    outcomes = run(cases, tmp_path, workers=2)
    whole, lot = outcomes["all"], outcomes["lot"]
    pools = 10
    counts = Counter((row[1] // pools, row[2]) for row in trained(whole))
    assert counts == {(epoch, i): 1 for epoch in range(4) for i in range(400)}
    assert int(whole.numbers["scored"]) == 800  # epochs 0 and 3
    known = whole.handle.history.export()
    assert (known["times_scored"] == 2).all()
    assert (known["times_selected"] == 4).all()
    assert known["backward"].any()
    local = run_locally(cases[1], tmp_path / "local", workers=2)
    assert sorted(r[1:] for r in trained(lot)) == sorted(r[1:] for r in trained(local))
    assert int(lot.numbers["scored"]) == 0
    assert int(lot.numbers["backpropped"]) == local.numbers["backpropped"]
