"""Wall time against error on Ray: selection beside uniform training on all the cores.

    python pipelines/benchmarks/frontier_wall.py [--data FOLDER] [--cores 2] [--seeds 1]
        [--methods uniform,stale_sb] [--budgets 1,2,4]

The rows and the net of `frontier.py`, near-duplicates. Uniform training has a worker of one thread
on every core. Selection has the same cores: one scorer, which reads for itself, and workers on the
others. Each trains at budgets of cost 1, 2 and 4 with a rate that falls linearly in the cost to 0,
and is timed from its first step to its last; the start, which is the same for all, is left out.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import ray
from bench.records import context, hardware
from frontier_cells import CHANNELS, Setup, rows_of
from frontier_plan import METHODS
from frontier_rows import NUM_CLASSES, load, test_rows
from ray.train import RunConfig

from raysb import Data, Scoring, SelectiveTrainer, Training, losses
from raysb.job import Silent
from raysb.nn.registry import build_model
from raysb.nn.settings import Model

NAMES, BUDGETS, RATE, BATCH = ("uniform", "stale_sb", "sb"), (1.0, 2.0, 4.0), 0.05, 64
NET = partial(
    build_model,
    Model(name="cnn", norm="group", args={"channels": list(CHANNELS)}),
    image_shape=(28, 28, 1),
    num_classes=NUM_CLASSES,
)


def run(
    name: str, cost: float, seed: int, setup: Setup, cores: int, folder: Path
) -> dict[str, Any]:
    """Train once; wall seconds between the first step and the last, and the error."""
    rows = rows_of(setup, "near_duplicates")
    image, label = test_rows(load(setup.data, setup.limit))
    selector = METHODS[name].build()
    workers = max(cores - 1, 1) if selector.needs_scores else cores
    starts: list[float] = []

    class Clock(Silent):
        def phase(self, name: str) -> None:
            if name == "first batch":
                starts.append(time.monotonic())

        def line(self, line: Any) -> None:
            if line["kind"] == "train" and line["step"]:
                starts[1:] = [time.monotonic()]

    result = SelectiveTrainer(
        model=NET,
        loss=losses.cross_entropy("label"),
        datasets={
            "train": {"image": rows.image, "label": rows.label},
            "eval": {"image": image, "label": label},
        },
        selector=selector,
        training=Training(
            epochs=40,
            batch_size=BATCH // workers,
            lr=RATE,
            num_workers=workers,
            num_threads=1,
            num_cpus=0.9,
            max_cost=cost,
            scoring_cost=setup.scoring_cost,
            schedule="linear",
            schedule_axis="cost",
            use_gpu=False,
        ),
        scoring=Scoring(num_actors=1, num_cpus=0.5),
        data=Data(augment="shift", num_readers=0 if selector.needs_scores else 1),
        run_config=RunConfig(storage_path=str(folder), name=f"{name}-{cost:g}-{seed}"),
        watcher=Clock(),
        seed=seed,
    ).fit()
    seconds = starts[-1] - starts[0]
    return {
        "method": name,
        "cost": cost,
        "seed": seed,
        "seconds": seconds,
        "error": result.metrics["eval/error"],
        "num_backpropped": result.metrics["num_backpropped"],
        "num_scored": result.metrics["num_scored"],
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Medians over seeds, as markdown."""
    lines = ["| method | cost | seconds | error % | rows trained | rows scored | n |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in NAMES:
        for cost in BUDGETS:
            mine = [each for each in runs if (each["method"], each["cost"]) == (name, cost)]
            if mine:
                s, e, b, c = (
                    median(each[key] for each in mine)
                    for key in ("seconds", "error", "num_backpropped", "num_scored")
                )
                lines.append(
                    f"| {name} | {cost:g} | {s:.0f} | {e:.2%} | {b:,.0f} | {c:,.0f} | {len(mine)} |"
                )
    return "\n".join(lines)


def head(record: dict[str, Any]) -> str:
    """What was measured, where and by which command."""
    on, versions = record["hardware"], ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return (
        "# Wall time on all cores\n\n"
        f"{on['cores']} cores of {on['cpu']}, {on['memory_GiB']} GiB; `{record['command']}`, "
        f"{record['date']}, commit {record['commit']}, {versions}, load before the start "
        f"{record['load_before']}. Seconds from the first step to the last, medians over seeds."
    )


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="folder with parquet; by default 5,000 digits")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--budgets", default="1,2,4")
    parser.add_argument("--ratio", type=float, default=0.36, help="cost of a scored row")
    parser.add_argument("--out", type=Path, default=Path("pipelines/records"))
    args = parser.parse_args()
    setup, runs = Setup(args.data, None, args.ratio), []
    about = context(sys.argv[1:], "benchmarks/frontier_wall.py")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.seeds + 1):
            for cost in map(float, args.budgets.split(",")):
                for name in args.methods.split(","):
                    runs.append(run(name, cost, seed, setup, args.cores, Path(folder)))
                    print(runs[-1], file=sys.stderr, flush=True)
                    if ray.is_initialized():
                        ray.shutdown()
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / f"frontier_wall_{os.cpu_count()}cpu_{time.strftime('%Y-%m')}"
    record = {"hardware": hardware(), **about, "runs": runs}
    name.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n")
    name.with_suffix(".md").write_text(f"{head(record)}\n\n{table(runs)}\n")
    print(table(runs))


if __name__ == "__main__":
    main()
