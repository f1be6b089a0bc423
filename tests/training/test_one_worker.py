"""One worker finds what torch's launcher would have left for it."""

import subprocess
import sys

ONE = """
import inspect, os, re
import ray.train.torch, torch
import torch.distributed as dist
from ray.train.torch import config
from raysb.training.one_worker import group_of_one

ray.train.torch.get_device = lambda: torch.device("cpu")  # asks the worker that this is not
with group_of_one():
    assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
    assert dist.get_node_local_rank() == 0
    one = torch.tensor([3.0])
    dist.all_reduce(one)
    dist.all_reduce(one, group=dist.new_group([0]))
    assert one.item() == 3
    ray_sets = inspect.getsource(config._set_torch_distributed_env_vars)
    names = re.findall(r'os.environ\\["([A-Z_]+)"\\]', ray_sets)
    assert len(names) == 6
    assert {name: os.environ[name] for name in names} == {
        "RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1", "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    dist.destroy_process_group()
    dist.init_process_group("gloo")  # by the environment
    assert dist.get_world_size() == 1
"""


def test_its_group_and_its_environment_are_those_of_a_launcher() -> None:
    command = [sys.executable, "-W", "ignore", "-c", ONE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
