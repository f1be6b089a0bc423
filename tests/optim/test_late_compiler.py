"""Torch's compiler stays away from who trains, and is there for who compiles."""

import subprocess
import sys

import pytest

TRAINED = """
import inspect, sys
from types import SimpleNamespace
import torch
from raysb.optim.registry import build_optimizer

def train(name, compiler):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    settings = SimpleNamespace(optimizer=name, optimizer_args={}, lr=0.01)
    optimizer = build_optimizer(model, settings)
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.ones(2, 5)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    inspect.getmodule(inspect.currentframe())  # looks at a name of every module
    assert ("torch._dynamo.convert_frame" in sys.modules) == compiler
    trained = [p.detach().clone() for p in model.parameters()]
    assert all(p.isfinite().all() for p in trained)
    return trained

without = train(sys.argv[1], compiler=False)
"""

COMPILED = """
import torch._dynamo.utils
assert torch._dynamo is sys.modules["torch._dynamo"] and hasattr(torch._dynamo, "optimize")
with_it = train(sys.argv[1], compiler=True)
assert all(map(torch.equal, without, with_it))
for method in (torch.optim.Optimizer.zero_grad, torch.optim.Optimizer.add_param_group):
    assert method.__wrapped__.__dynamo_disable._torchdynamo_disable  # as torch marks them itself
double = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
assert double(torch.ones(2)).tolist() == [2, 2]
"""


@pytest.mark.parametrize("name", ["sgd", "adamw", "ranger"])
def test_who_trains_loads_no_compiler_and_takes_the_very_steps(name) -> None:
    """A second of CPU time and 70 MB of each process; whoever compiles finds torch as ever."""
    command = [sys.executable, "-W", "ignore", "-c", TRAINED + COMPILED, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
