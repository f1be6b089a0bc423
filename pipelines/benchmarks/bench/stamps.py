"""An optimizer that writes down when each step was done, for runs of the `raysb` command."""

import os
import struct
import time
from typing import Any

import torch

FILE = "RAYSB_BENCH_STAMPS"  # names the file; passes from the command to its workers


class StampedSGD(torch.optim.SGD):
    """SGD that appends the time of every step, a float64, to the file that `FILE` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._out = open(os.environ[FILE], "ab", buffering=0)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Do the step, then note the time."""
        answer = super().step(*args, **kwargs)
        self._out.write(struct.pack("d", time.time()))
        return answer

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k != "_out"}


def read(path: str) -> list[float]:
    """The times written to a file."""
    with open(path, "rb") as file:
        return [value for (value,) in struct.iter_unpack("d", file.read())]
