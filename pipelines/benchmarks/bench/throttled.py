"""A net that takes its time, in scorers or in trainers, as a file says; for runs of `raysb`."""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn

FILE = "RAYSB_BENCH_PACE"  # names the file; passes from the command to its workers
FEATURES, CLASSES = 6, 3


class Throttled(nn.Module):
    """Layers that wait before every forward pass."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Wait as `set_pace` said last, then answer. [B, features] -> [B, classes]"""
        pace = json.loads(Path(os.environ[FILE]).read_text())
        time.sleep(pace["step"] if self.training else pace["score"] * len(x))
        output: torch.Tensor = self.layers(x.float())
        return output


def build() -> nn.Module:
    """The net: `--model.name bench.throttled:build`."""
    return Throttled(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def set_pace(*, step: float = 0.0, score: float = 0.0) -> None:
    """From now on a step waits so many seconds on each worker, and a scorer for each row."""
    path = Path(os.environ[FILE])
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"step": step, "score": score}))
    draft.replace(path)
