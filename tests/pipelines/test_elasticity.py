"""What the benchmark of elasticity reads off a run is what was written there."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from raysb.training.audit import Audit

BENCHMARKS = Path(__file__).parents[2] / "pipelines" / "benchmarks"


@pytest.fixture
def bench(monkeypatch):
    """Finds the modules of the benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(name)


def note(run: Path, step: int, ids: list[int], pool: int, age: int = 0, rank: int = 0) -> None:
    """One worker's step, of rows that were scored by weights of so many steps before."""
    count = len(ids)
    columns = {"pool": np.full(count, pool), "weights_step": np.full(count, step - 1 - age)}
    Audit(str(run / "audit"))(step, rank, {"id": np.array(ids), **columns})


def test_rows_are_counted_for_each_epoch(bench, tmp_path) -> None:
    """Four rows in pools of two, two epochs: one missing in the second, another one twice."""
    (tmp_path / "config.toml").write_text("[scoring]\nbatch_size = 2\n")
    for step, (pool, ids) in enumerate([(0, [2, 0]), (1, [3, 1]), (2, [1, 0]), (3, [0])], 1):
        note(tmp_path, step, ids, pool)
    found = bench("bench.slow_runs").lost_and_twice(tmp_path, 4)
    assert found == {"rows lost": 2, "rows trained twice": 1}


def test_seconds_rates_and_ages_are_those_of_the_lines_with_a_number_of_scorers(
    bench, tmp_path
) -> None:
    hunger, runs = bench("bench.hunger"), bench("bench.runs")
    counts = [None, 1, 1, 1, 1, 2, 4, 4, 4, 4]  # a line a second, a step between two
    lines = [
        {"step": step, "wall_time_s": 5.0 + step, "num_scored": 100 * step * (count or 0)}
        | ({} if count is None else {"scorers/running": count})
        for step, count in enumerate(counts)
    ]
    run = runs.Run(tmp_path)
    for step in range(1, len(counts)):
        note(run.directory, step, [step], 0, age=step)
    found = hunger.growth(run, lines)
    assert found["first batch to 2 scorers, s"] == 5
    assert found["first batch to 3 scorers, s"] == found["first batch to 4 scorers, s"] == 6
    assert found["rows scored/s with 1"] == 100
    assert found["oldest score with 1, steps"] == 4
    assert found["oldest score with 4, steps"] == found[hunger.AGE_OF_RUN] == 9
    assert "rows scored/s with 2" not in found  # on its way
    back = [{"wall_time_s": 3.0 * i, "scorers/running": n} for i, n in enumerate([4, 4, 2, 1])]
    assert list(hunger.decline(back).values()) == [6, 6, 9]


def test_a_run_says_which_steps_so_many_workers_made_and_where_it_went_on(bench, tmp_path) -> None:
    run = bench("bench.runs").Run(tmp_path)
    assert (run.step(), run.lines()) == (0, [])
    for step, ranks in ((1, 2), (2, 2), (3, 1)):
        for rank in range(ranks):
            note(run.directory, step, [step], 0, rank=rank)
    lines = [{"kind": "start", "step": 0}, {"kind": "resume", "step": 2}]
    (run.directory / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    assert run.workers() == {1: 2, 2: 2, 3: 1}
    assert (run.step(workers=2), run.step(workers=1)) == (2, 3)
    assert run.resumed_at() == [2]


@pytest.mark.ray
@pytest.mark.slow  # 30 s
def test_trainers_that_are_slow_from_the_start_are_measured(bench, monkeypatch) -> None:
    benchmark = bench("elasticity")
    for name, value in (("ROWS", 800), ("FED_S", 3.0)):
        monkeypatch.setattr(bench("bench.hunger"), name, value)
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    found = benchmark.measure("b", 1)
    assert len(found) == 4
    assert all(one.verdict.endswith("met") for one in found), found
