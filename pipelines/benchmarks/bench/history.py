"""Part e: rows a second into and out of the loss history, and the memory that an id takes."""

import os
import time
from collections.abc import Callable

import numpy as np

from bench.measures import Measure, failed
from raysb.cluster import connected
from raysb.history.shards import LossHistory
from raysb.history.table import LossTable
from raysb.schema import PoolScores

SHARDS, BATCHES = (1, 4), (512, 4096)
IDS = 10_000_000


def measure(repeats: int, rows: int, report: Callable[[Measure], None]) -> None:
    """Memory first, in a process that holds nothing else; then the actors, in turn."""
    try:
        _memory(report)
    except Exception as error:
        report(failed("e", f"bytes per id at {IDS:,} ids", error))
    found: dict[str, list[float]] = {}
    try:
        with connected():
            histories = {count: LossHistory.start(count, rows) for count in SHARDS}
            for history in histories.values():
                _record(history, np.arange(rows), 65536, epoch=0)  # ids are known from here on
            for epoch in range(1, repeats + 1):
                for count, history in histories.items():
                    for batch in BATCHES:
                        _both(history, rows, count, batch, epoch, found)
    except Exception as error:
        report(failed("e", "history actors", error))
    for name, values in found.items():
        report(Measure(part="e", name=name, values=values))


def _both(
    history: LossHistory,
    rows: int,
    count: int,
    batch: int,
    epoch: int,
    found: dict[str, list[float]],
) -> None:
    ids = np.random.default_rng(epoch).permutation(rows)[: min(rows, 400 * batch)]
    where = f"{count} shard{'s' * (count > 1)}, batches of {batch}: rows/s"
    found.setdefault(f"recorded, {where}", []).append(_record(history, ids, batch, epoch))
    found.setdefault(f"queried, {where}", []).append(_query(history, ids, batch))


def _record(history: LossHistory, ids: np.ndarray, batch: int, epoch: int) -> float:
    losses = np.random.default_rng(0).random(len(ids)).astype(np.float32)
    start = time.perf_counter()
    for pool, at in enumerate(range(0, len(ids), batch)):
        chosen, loss = ids[at : at + batch], losses[at : at + batch]
        right = (loss < 0.5).astype(np.uint8)
        history.record(PoolScores(pool, epoch, pool, chosen, loss, right, loss > 0.5))
    history.flush()
    return len(ids) / (time.perf_counter() - start)


def _query(history: LossHistory, ids: np.ndarray, batch: int) -> float:
    start = time.perf_counter()
    for at in range(0, len(ids), batch):
        history.lookup(ids[at : at + batch])
    return len(ids) / (time.perf_counter() - start)


def _memory(report: Callable[[Measure], None]) -> None:
    before = _resident()
    table = LossTable(IDS)
    for at in range(0, IDS, 100_000):
        ids = np.arange(at, at + 100_000)
        loss = np.ones(len(ids), np.float32)
        table.record(
            ids, loss, correct=None, selected=np.ones(len(ids), bool), weights_step=0, epoch=0
        )
    grown = (_resident() - before) / IDS
    assert len(table) == IDS
    name = f"bytes per id at {IDS:,} ids"
    report(Measure(part="e", name=f"{name}, reserved", values=[table.nbytes / IDS], at_most=48))
    report(Measure(part="e", name=f"{name}, growth of the process", values=[grown]))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
