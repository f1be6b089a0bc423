"""What a checkpoint costs: ResNet-18 with momentum, and a history of a million samples.

    python pipelines/benchmarks/checkpoints.py [--ids 1000000] [--repeats 7]

Seconds to write and commit (with fsync and SHA-256), to verify and load, and bytes by file; then
how long a run of `engine=local` takes to its first step when it begins and when it is resumed.
Medians; the record goes to `pipelines/records/checkpoints_*.{json,md}`.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

from bench.records import hardware

from raysb.history.ring import LossRing
from raysb.history.table import LossTable
from raysb.nn.resnet import ResNet
from raysb.scoring.ledger import Ledger
from raysb.training.checkpoints import Checkpoints
from raysb.training.generators import rng_state

RECORDS = Path(__file__).parents[1] / "records"


def parts(num_ids: int) -> dict[str, Any]:
    """What a run with that many samples saves."""
    model = ResNet(3, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    table, rng = LossTable(num_ids), np.random.default_rng(0)
    for start in range(0, num_ids, 100_000):
        ids = np.arange(start, min(start + 100_000, num_ids))
        losses = rng.exponential(size=len(ids)).astype(np.float32)
        right = rng.random(len(ids)) < 0.9
        table.record(
            ids, losses, correct=right.astype(np.uint8), selected=~right, weights_step=1, epoch=0
        )
    return {
        "model": model,
        "learner": {"optimizer": optimizer.state_dict(), "rngs": [rng_state()]},
        "stream": {"ledger": Ledger(ring=LossRing(1024)).state_dict()},
        "history": table.state_dict(),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RECORDS)
    options = parser.parse_args()
    saved = parts(options.ids)
    seconds: dict[str, list[float]] = {"write": [], "load": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(folder=folder)
        for step in range(options.repeats):
            start = time.perf_counter()
            store.save(step, **saved)
            seconds["write"].append(time.perf_counter() - start)
            start = time.perf_counter()
            newest = store.newest()
            if newest is not None:
                store.load(newest, saved["model"])
            seconds["load"].append(time.perf_counter() - start)
            with store.local(store.entries()[-1]) as path:
                sizes = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
    lines = ["| | seconds (median, least - most) |", "| --- | --- |"]
    for name, each in seconds.items():
        lines.append(f"| {name} | {median(each):.2f} ({min(each):.2f} - {max(each):.2f}) |")
    lines += ["", "| file | MB |", "| --- | --- |"]
    lines += [f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items()]
    here = ", ".join(f"{key} {value}" for key, value in hardware().items())
    head = f"# What a checkpoint costs\n\nResNet-18 with momentum, {options.ids:,} samples; "
    text = head + f"{here}; n = {options.repeats}.\n\n" + "\n".join(lines) + "\n"
    stem = f"checkpoints_{torch.multiprocessing.cpu_count()}cpu_{time.strftime('%Y-%m')}"
    (options.out / f"{stem}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
