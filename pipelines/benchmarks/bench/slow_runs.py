"""Runs of a net that waits, on made-up rows that are all selected, and what was trained of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.runs import Run
from bench.throttled import CLASSES, FEATURES, set_pace
from raysb.config import load
from raysb.source.plan import PoolPlan
from raysb.training.audit import read_audit

EPOCHS = 2
COMMON = f"""
  --data.inputs x --data.test_fraction 0 --data.num_readers 1 --model.name bench.throttled:build
  --selector.min_probability 1 --train.epochs {EPOCHS} --train.audit true --train.use_gpu false
  --train.num_threads 1 --run.loggers []
"""


@contextmanager
def started(folder: Path, rows: int, flags: str, address: str = "local") -> Iterator[Run]:
    """A run on so many rows an epoch, which ends with the block at the latest."""
    run = Run(folder, address=("--address", address))
    data = folder / "rows.parquet"
    _write_rows(data, rows)
    words = ("--data.train", str(data), "--run.dir", str(run.directory))
    run.start(*words, *COMMON.split(), *flags.split())
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.process.kill()


def _write_rows(path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    columns = {"id": np.arange(count), "label": rng.integers(CLASSES, size=count)}
    columns["x"] = pa.FixedSizeListArray.from_arrays(x.ravel(), FEATURES)
    pq.write_table(pa.table(columns), path)


def finish(run: Run, rows: int) -> dict[str, float]:
    """Let the rest go fast; how many rows of its epochs are missing or twice in what was kept.

    Raises:
        RuntimeError: The command failed.
    """
    set_pace()
    if code := run.end():
        raise RuntimeError(f"exit code {code}: {run.last_words()}")
    return lost_and_twice(run.directory, rows)


def lost_and_twice(directory: Path, rows: int) -> dict[str, float]:
    """Of the rows of every epoch."""
    audit = read_audit(directory / "audit")
    pool_rows = load(directory / "config.toml").scoring.batch_size
    plan = PoolPlan(num_rows=rows, pool_rows=pool_rows, epochs=EPOCHS)
    epochs = plan.epoch_of(audit["pool"].to_numpy())
    count = Counter(zip(epochs.tolist(), audit["id"].to_pylist(), strict=True))
    return {
        "rows lost": EPOCHS * rows - len(count),
        "rows trained twice": count.total() - len(count),
    }
