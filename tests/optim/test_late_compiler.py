"""Torch's compiler stays away from who trains, and is there for who compiles."""

import subprocess
import sys

import pytest

TRAINING = """
import sys
from types import SimpleNamespace
import torch
from raysb.optim.registry import build_optimizer

SETTINGS = SimpleNamespace(optimizer=sys.argv[1], optimizer_args={}, lr=0.01)

def train(make):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    optimizer, told = make(model), []
    optimizer.register_step_pre_hook(lambda *_: told.append("before"))
    optimizer.register_step_post_hook(lambda *_: told.append(torch.is_grad_enabled()))
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert told == ["before", True] * 8
    trained = [p.detach().clone() for p in model.parameters()]
    assert all(p.isfinite().all() for p in trained)
    return trained

def ours(model):
    return build_optimizer(model, SETTINGS)

without = train(ours)
assert "torch._dynamo" not in sys.modules
"""

LOADED_LATER = """
import torch._dynamo
assert all(map(torch.equal, without, train(ours)))
for method in (torch.optim.Optimizer.zero_grad, torch.optim.Optimizer.add_param_group):
    assert method.__wrapped__.__dynamo_disable._torchdynamo_disable  # as torch marks them itself
"""

COMPILED = """
import torch
from torch._dynamo.utils import counters
from raysb.optim.late_compiler import make_without_compiler, step_without_compiler

def graphs():
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    @torch.compile(backend="eager")
    def train(x):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        train(torch.ones(2, 5))
    return dict(counters["stats"]), model.weight.tolist()

expected, before = graphs(), torch.optim.AdamW.step
assert expected[0]["unique_graphs"] > 1
make_without_compiler()
step_without_compiler(torch.optim.AdamW)
assert torch.optim.AdamW.step is not before
assert graphs() == expected
"""


@pytest.mark.parametrize("name", ["sgd", "adamw", "ranger"])
def test_who_trains_loads_no_compiler_and_takes_the_very_steps(name) -> None:
    """A second of CPU time and 70 MB of each process; whoever loads it finds torch as ever."""
    run(TRAINING + LOADED_LATER, name)


def test_who_compiles_a_step_gets_the_graphs_of_torch() -> None:
    run(COMPILED)


def run(*code_and_arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", *code_and_arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
