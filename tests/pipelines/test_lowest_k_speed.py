"""What the steps of the measurement cost in operations: counted, as no clock decides a test."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

PIPELINE = Path(__file__).parents[2] / "pipelines" / "lowest_k_speed.py"


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    spec = importlib.util.spec_from_file_location("lowest_k_speed", PIPELINE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def operations(step, model, kept):
    """Of one step on 10 pictures."""
    x, y = torch.randn(10, 3, 8, 8), torch.arange(10)
    with FlopCounterMode(display=False) as counter:
        step(model, x, y, kept)
    return counter.get_total_flops()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("net", ["DenseNet-22", "ResNet-18/16"])
def test_whatever_is_kept_on_the_graph_costs_the_full_step_and_gathered_rows_their_share(
    pipeline, net, norm
):
    model = pipeline.NETS[net](3, 10, norm=norm)
    on_the_graph, gathered = pipeline.WAYS.values()
    full, forward = operations(on_the_graph, model, 1), operations(gathered, model, 0)
    assert 0.3 < forward / full < 0.36  # a third: forward, gradient of weights, of inputs
    for kept in (0.2, 0.6):
        assert operations(on_the_graph, model, kept) == full
        assert operations(gathered, model, kept) == pytest.approx(forward + kept * full, rel=1e-9)


@pytest.mark.parametrize("way", ["on the graph", "gathered"])
def test_the_gradient_is_that_of_the_rows_of_the_lowest_losses(pipeline, way):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    x, y = torch.randn(10, 3, 2, 2), torch.arange(10) % 3
    losses = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    expected = torch.autograd.grad(losses.sort().values[:6].mean(), model[1].weight)[0]
    pipeline.WAYS[way](model, x, y, 0.6)
    torch.testing.assert_close(model[1].weight.grad, expected)


def test_every_arm_is_measured_in_units_of_the_full_step(pipeline):
    found = {m.name: m for m in pipeline.measure("ResNet-18/16", "group", rounds=3, rows=2)}
    assert found["on the graph, kept 1"].value == 1
    assert len(found) == 5 + 6
    assert all(len(m.values) == 3 and min(m.values) > 0 for m in found.values())
    f = found["gathered, kept 0"].value
    assert found["gathered, kept 0.6"].note == f"f + s(f + b) = {f + 0.6:.2f}"
