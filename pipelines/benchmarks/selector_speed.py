"""Each selector takes at most .2 s of a pool of a million scores; most take less than .1 s.

    python pipelines/benchmarks/selector_speed.py [--rows 1000000] [--repeats 7] [--out FOLDER]

CPU seconds of one thread, medians and range of n = 7, on the hardware that the record names; other
losses and draws in each repeat, a distribution of as many losses as rows, sorted anew. `select` is
what a scored pool costs. Selectors that choose before rows are read have `preselect`, here of the
first pool of an epoch (of `BudgetedSelection` it draws all rows of the epoch, later pools look them
up), and `outlook`, once an epoch, over a history of as many ids. The record:
`pipelines/records/selector_speed_*.{json,md}`.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is loaded
sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from bench import records
from bench.measures import Measure, text_table

from raysb.history.table import LossTable
from raysb.seeding import Draws
from raysb.selection import SELECTORS, LossDistribution, Selector

GOAL, EPOCH = 0.2, 4  # the epoch: one in which `stale_selective_backprop` scores nothing
SETTINGS: dict[str, dict[str, Any]] = {
    "importance_sampling": {"tau_threshold": 0.0},  # on, whatever the scores
    "budgeted_selection": {"rows_per_epoch": 100_000},
}
NOTES = {"preselect": "first pool of an epoch", "outlook": "once an epoch"}


def build(kind: str, rows: int) -> Selector:
    """A selector with its defaults, and a history as long as the pool where it has one."""
    cls, given = SELECTORS[kind], SETTINGS.get(kind, {})
    has_history = any(field.name == "history" for field in dataclasses.fields(cls))
    return cls(**given, **({"history": rows} if has_history else {}))


def seconds(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """CPU time of a call, and what it returns."""
    start = time.process_time()
    returned = call(*given)
    return time.process_time() - start, returned


def measure(rows: int, repeats: int) -> list[Measure]:
    """Every selector in turn, again and again."""
    ids, taken = np.random.default_rng(0).permutation(rows), dict[tuple[str, str], list[float]]()
    for seed in range(-1, repeats):  # the first turn only warms up
        losses = np.random.default_rng(seed + 1).exponential(size=rows).astype(np.float32)
        table, draws = LossTable(rows), Draws(seed=seed, epoch=EPOCH)
        none = np.zeros(rows, np.bool_)
        table.record(ids, losses, correct=None, selected=none, weights_step=0, epoch=EPOCH - 1)
        known = table.records()
        for kind in SELECTORS:
            selector, took = build(kind, rows), {}
            seen = LossDistribution(losses)
            took["select"], _ = seconds(selector.select, ids, losses, seen, draws)
            if selector.preselects:
                took["outlook"], view = seconds(selector.outlook, known, EPOCH, 99)
                if view is None:  # looks at no history
                    del took["outlook"]
                took["preselect"], _ = seconds(selector.preselect, ids, view, draws)
            for call, time_taken in took.items() if seed >= 0 else ():
                taken.setdefault((kind, call), []).append(time_taken)
    return [
        Measure(
            part="S",
            name=f"`{kind}` {call}, s",
            values=values,
            at_most=None if call == "outlook" else GOAL,
            note=NOTES.get(call, ""),
        )
        for (kind, call), values in taken.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=records.ROOT / "pipelines" / "records")
    given = parser.parse_args()
    context = records.context(sys.argv[1:], "benchmarks/selector_speed.py")
    lines = measure(given.rows, given.repeats)
    print(text_table(lines))
    for path in records.write(given.out, "selector_speed", lines, context, quick=False):
        print(f"written: {path.name}")
