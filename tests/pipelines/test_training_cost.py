"""The benchmark of the training step runs: both ways to step, in two processes, in turn."""

import importlib.util
from pathlib import Path

import pytest

PIPELINE = Path(__file__).parents[2] / "pipelines" / "benchmarks" / "training_cost.py"


@pytest.mark.gloo
def test_a_step_of_ours_and_one_of_plain_ddp_are_read_in_turn(monkeypatch):
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    spec = importlib.util.spec_from_file_location("training_cost", PIPELINE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NETS", {"small: mlp": (64, 8, 3)})
    found = {each.name: each for each in module.measure_steps()}
    for kind in ("wall", "CPU"):
        theirs, ours = (
            found[f"small: mlp, {who}, {kind} ms a step"] for who in ("plain DDP", "ours")
        )
        more = found[f"small: mlp, more {kind} time than plain DDP, %"]
        assert len(theirs.values) == len(ours.values) == len(more.values) == 3
        assert min(*theirs.values, *ours.values) > 0
