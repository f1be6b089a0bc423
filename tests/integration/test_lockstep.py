"""The stream on Ray in lockstep is the local engine, to the last draw."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
import runs
from runs import Case, Outcome, run, run_locally

from raysb.selection import OrderedSGD, SelectiveBackprop

ray.cloudpickle.register_pickle_by_value(runs)
pytestmark = pytest.mark.ray


FOLLOWING = OrderedSGD(fraction="auto", minibatch=8)  # the accuracy of the epoch before
COUNTING = SelectiveBackprop(history=64, cdf="histogram")


def by_step(outcome: Outcome) -> list[dict[str, list[float]]]:
    """Rows of each step, ordered by id, whatever worker trained them."""
    return by_id(outcome).drop_columns(["loss"]).to_pylist()


def by_id(outcome: Outcome) -> pa.Table:
    return outcome.audit.sort_by([(name, "ascending") for name in ("step", "pool", "id")])


CASES = [
    Case(name="one", actors=1),
    Case(name="three", actors=3),
    Case(name="readers", actors=(2, 4), readers=0),  # more would take turns: none comes
    Case(name="odd", actors=2, count=173, pool=19, batch_size=5, epochs=3),
    Case(name="counts", actors=2, selector=COUNTING, readers=0),
]


@pytest.mark.parametrize(
    ("workers", "cases"),
    [(1, CASES[:2]), pytest.param(1, CASES[2:], marks=pytest.mark.slow), (2, CASES)],
)
def test_lockstep_on_ray_trains_the_rows_of_the_local_engine(ray_cluster, tmp_path, workers, cases):
    outcomes = run(cases, tmp_path, workers=workers)
    for case in cases:
        check_equal(case, outcomes[case.name], tmp_path / "local", workers)


def test_lockstep_on_ray_knows_the_accuracy_that_the_local_engine_knows(ray_cluster, tmp_path):
    case = Case(name="following", actors=3, selector=FOLLOWING, epochs=4)
    outcome = run([case], tmp_path, workers=1)[case.name]
    check_equal(case, outcome, tmp_path / "local", 1)
    assert outcome.numbers["steps"] < case.epochs * case.count // case.batch_size  # it has risen


def check_equal(case: Case, remote: Outcome, folder: Path, workers: int) -> None:
    local = run_locally(case, folder, workers=workers)
    assert by_step(remote) == by_step(local), case.name
    assert int(remote.numbers["steps"]) == local.numbers["steps"]
    np.testing.assert_allclose(
        remote.numbers["parameters"], local.numbers["parameters"], rtol=0, atol=1e-12
    )
    theirs, ours = (by_id(outcome)["loss"].to_numpy() for outcome in (remote, local))
    np.testing.assert_allclose(theirs, ours, rtol=1e-6)  # the scorers' and this process's
    if workers == 1:
        np.testing.assert_array_equal(remote.numbers["parameters"], local.numbers["parameters"])
    table = remote.handle.history.export()
    expected = local.handle.history.export()
    assert table.keys() == expected.keys()
    np.testing.assert_array_equal(table["id"], expected["id"])
    np.testing.assert_allclose(table["mean"], expected["mean"], rtol=1e-5)
    np.testing.assert_array_equal(table["times_selected"], expected["times_selected"])
