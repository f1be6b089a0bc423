"""The sweep over beta: every point is a run of its own, at the cost asked for."""

import importlib
import os
from pathlib import Path

import pytest

from raysb.config import load
from raysb.report.records import read_metrics

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.mark.ray
def test_a_sweep_trains_every_beta_with_every_seed_at_the_same_cost(
    ray_cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.syspath_prepend(PIPELINES)
    module = importlib.import_module("tune_beta")
    ray_cluster.cloudpickle.register_pickle_by_value(module)
    table = module.sweep(["uniform", 2.0], seeds=1, cost=0.5, folder=tmp_path)
    assert sorted(map(str, table["config/beta"])) == ["2.0", "uniform"]
    assert all(0.5 <= cost < 0.6 for cost in table["cost"])
    runs = sorted(tmp_path.rglob("config.toml"))
    assert len(runs) == 2
    configs = {load(path).selector.__class__.__name__: path.parent for path in runs}
    assert configs.keys() == {"Uniform", "SelectiveBackprop"}
    for row in table.to_dict("records"):
        name = "Uniform" if row["config/beta"] == "uniform" else "SelectiveBackprop"
        assert read_metrics(configs[name])[-1]["num_backpropped"] == row["num_backpropped"]
