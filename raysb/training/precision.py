"""TF32 off for a while: a GPU rounds factors of float32 to 10 bits, a CPU never does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions, recurrent cells and matrix products of CUDA in full float32 within.

    Settings of this process are the same before and after, and CPUs have none of these.
    """
    # torch's newer names: reading the older ones (`allow_tf32`, `cudnn.flags`) raises an error
    # where somebody has set one of these. The first stands for all that were not set by themselves
    cudnn: Any = torch.backends.cudnn
    switches = [cudnn, cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]
    changed: list[tuple[Any, str]] = []
    try:
        for switch in switches:
            if (before := switch.fp32_precision) != "ieee":
                changed.append((switch, before))
                switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, before in reversed(changed):
            switch.fp32_precision = before
