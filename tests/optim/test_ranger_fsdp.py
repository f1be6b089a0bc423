"""Ranger and gradient centralization where FSDP2 has sharded the weights over two processes."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import copy, json, sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from raysb.optim import Ranger, centralize_gradients, gc_param_groups

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))

def make():  # 5 rows: the shards differ; 6 rows of 3 groups: a group is cut in two
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(5, 8), nn.Linear(8, 6), nn.Unflatten(1, (6, 1)),
        nn.ConvTranspose1d(6, 6, 3, groups=3), nn.ConvTranspose1d(6, 4, 2), nn.Conv1d(4, 5, 2),
    )

OPTIMIZERS = {
    "ranger": lambda groups: Ranger(groups, lr=.02, weight_decay=.1, foreach=False),
    "foreach": lambda groups: Ranger(groups, lr=.02, weight_decay=.1, foreach=True),
    "adamw": lambda groups: centralize_gradients(torch.optim.AdamW(groups, lr=.02)),
}

def train(model, make_optimizer, rows):
    optimizer = make_optimizer(gc_param_groups(model))
    for step in range(14):  # two pulls of Lookahead, and two steps of a third cycle
        words = torch.randint(5, (4,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(words[rows]) - step % 3).square().mean().backward()
        optimizer.step()
    return optimizer

found = {}
for name, make_optimizer in OPTIMIZERS.items():
    for dim in (0, 1):
        alone, sharded = make(), make()
        train(alone, make_optimizer, slice(None))
        place = lambda p: Shard(dim if p.ndim > 1 else 0)
        fully_shard(sharded, mesh=mesh, shard_placement_fn=place)
        optimizer = train(sharded, make_optimizer, slice(2 * rank, 2 * rank + 2))
        states = optimizer.state.values()
        assert all(type(s["exp_avg"]).__name__ == "DTensor" for s in states)
        with torch.no_grad():
            pairs = zip(alone.parameters(), sharded.parameters(), strict=True)
            gaps = [float((a - b.full_tensor()).abs().max()) for a, b in pairs]
        found[f"{name}, {dim}"] = max(gaps)
json.dump(found, open(f"{folder}/{rank}.json", "w"))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Largest difference of a weight to that of one process on all rows, by case, of each rank."""
    folder = tmp_path_factory.mktemp("fsdp")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.gloo
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("name", ["ranger", "foreach", "adamw"])
def test_two_processes_with_sharded_weights_train_as_one(found, name, dim):
    """Also where a mean runs over the sharded dimension, as with `shard_placement_fn`."""
    for differences in found:
        assert differences[f"{name}, {dim}"] < 1e-6
