"""What a checkpoint costs: ResNet-18 with momentum, and a history of a million samples.

    python pipelines/benchmarks/checkpoints.py [--ids 1000000] [--repeats 7]

Seconds to write and commit (with fsync and SHA-256), to verify and load, and bytes by file. Medians
and range; the record goes to `pipelines/records/checkpoints_*.{json,md}`. How long a run takes to
its first step when it begins and when it is resumed: `training_cost.py --parts C`.
"""

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

from bench import records
from bench.measures import Measure, text_table

from raysb.history.settings import History
from raysb.history.table import LossTable
from raysb.job import Silent, TrainingJob
from raysb.local import fit_locally
from raysb.losses import cross_entropy
from raysb.nn.resnet import ResNet
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.checkpoints import Checkpoints
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec

RECORDS = Path(__file__).parents[1] / "records"


def parts(num_ids: int, folder: Path) -> dict[str, Any]:
    """What a run with that many samples saves: that of one step, with all of them known."""
    image = np.broadcast_to(np.zeros((1, 8, 8, 1), np.uint8), (num_ids, 8, 8, 1))
    task = Task(
        model=partial(ResNet, 1, 10),
        forward=inputs("image"),
        loss=cross_entropy("label"),
    )
    rows = ArraySource({"image": image, "label": np.zeros(num_ids, np.int64)})
    job = TrainingJob(
        spec=StreamSpec(
            source=rows,
            task=task,
            selector=SelectiveBackprop(),
            scoring=Scoring(),
            inputs=("image",),
        ),
        training=Training(max_steps=1, use_gpu=False),
        evaluation=Evaluation(),
        history=History(),
        held_out=None,
        optimizer=None,
        directory=folder,
        watcher=Silent(),
        verbose=False,
    )
    fit_locally(job)
    model, store = task.build(0), job.checkpoints(folder)
    saved = store.load(store.entries()[-1], model)
    return {"model": model, **saved, "history": known(num_ids)}


def known(num_ids: int) -> dict[str, Any]:
    """A history in which every sample was scored once."""
    table, rng = LossTable(num_ids), np.random.default_rng(0)
    for start in range(0, num_ids, 100_000):
        ids = np.arange(start, min(start + 100_000, num_ids))
        losses = rng.exponential(size=len(ids)).astype(np.float32)
        right = rng.random(len(ids)) < 0.9
        table.record(
            ids, losses, correct=right.astype(np.uint8), selected=~right, weights_step=1, epoch=0
        )
    return table.state_dict()


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RECORDS)
    options = parser.parse_args()
    about = records.context(sys.argv[1:], "benchmarks/checkpoints.py")
    with tempfile.TemporaryDirectory() as folder:
        saved = parts(options.ids, Path(folder))
    seconds: dict[str, list[float]] = {"write and commit": [], "verify and load": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(folder=folder)
        for step in range(options.repeats):
            start = time.perf_counter()
            store.save(step, **saved)
            seconds["write and commit"].append(time.perf_counter() - start)
            start = time.perf_counter()
            if (newest := store.newest()) is not None:  # which compares the digests
                store.load(newest, saved["model"])
            seconds["verify and load"].append(time.perf_counter() - start)
            with store.local(store.entries()[-1]) as path:
                sizes = {file.name: file.stat().st_size for file in sorted(path.iterdir())}
    what = f"ResNet-18 with momentum, {options.ids:,} samples"
    measures = [
        Measure(part="A", name=f"{what}: {name}, s", values=each) for name, each in seconds.items()
    ]
    measures += [
        Measure(part="A", name=f"{what}: {name}, MB", values=[size / 1e6])
        for name, size in sizes.items()
    ]
    records.write(options.out, "checkpoints", measures, about, quick=False)
    print(text_table(measures))


if __name__ == "__main__":
    main()
