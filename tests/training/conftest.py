"""Processes that all-reduce, for the tests marked `gloo`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

import pytest

HEAD = """
import json, os, signal, sys, numpy as np, torch, torch.distributed as dist
from torch import nn
rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size
)
torch.set_num_threads(1)
"""

TAIL = """
json.dump(found, open(f"{folder}/{rank}.json", "w"))
if "--alone" in sys.argv:  # a peer is dead: nobody to wait for
    sys.stdout.flush()
    os._exit(0)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="session")
def gloo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """Run a script in several processes at once; what each has left in `found`, by rank.

    The script finds `rank`, `world_size`, a process group and the imports of `HEAD`. Of a process
    among `killed`, which ends by SIGKILL, `None` comes back.
    """

    def run(script: str, *, workers: int, killed: Collection[int] = ()) -> list[Any]:
        folder = tmp_path_factory.mktemp("gloo")
        flags = ["--alone"] if killed else []
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", HEAD + script + TAIL),
                    *(str(rank), str(workers), str(folder), *flags),
                ],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(workers)
        ]
        try:
            for rank, process in enumerate(processes):
                _, errors = process.communicate(timeout=120)
                assert process.returncode == (-signal.SIGKILL if rank in killed else 0), errors
        finally:
            for process in processes:
                process.kill()
        found = [folder / f"{rank}.json" for rank in range(workers)]
        return [json.loads(path.read_text()) if path.exists() else None for path in found]

    return run
