"""Keep what runs reached: one JSON with their curves, one figure, one table.

    python pipelines/record.py NAME RUN_DIR [RUN_DIR ...]     # writes pipelines/records/NAME.*

The figure needs matplotlib, which the extra `demo` brings.
"""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot, ticker

import raysb
from raysb.config import kind_of, load

RECORDS = Path(__file__).parent / "records"
CURVES = ("epoch", "step", "cost", "wall_time_s", "num_scored", "num_backpropped")
KEPT = (*CURVES, "score/loss", "score/error", "select/kept_fraction", "eval/loss", "eval/error")


def read_run(folder: Path) -> dict[str, Any]:
    """Configuration, curve and end of a run."""
    lines = raysb.read_metrics(folder)
    config = load(folder / "config.toml")
    return {
        "selector": kind_of(config),
        # of paths only the last two parts: where data lay on this machine is nobody's business
        "config": re.sub(r'"[^"]*/([^/"]+/[^/"]+)"', r'"\1"', (folder / "config.toml").read_text()),
        "curve": [
            {key: line[key] for key in KEPT if key in line}
            for line in lines
            if line["kind"] in ("epoch", "eval")
        ],
        "end": lines[-1],
    }


def hardware() -> dict[str, Any]:
    """What the figures depend on."""
    import ray
    import torch

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "commit": commit.stdout.strip(),
    }


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Test error against cost, and against seconds."""
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, key, label in zip(
        axes,
        ("cost", "wall_time_s"),
        ("cost [epochs of uniform training]", "wall time [s]"),
        strict=True,
    ):
        for run in runs:
            points = [(p[key], 100 * p["eval/error"]) for p in run["curve"]]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=run["selector"])
        axis.set_xlabel(label)
        axis.set_yscale("log")
        for names in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            names(ticker.FormatStrFormatter("%g"))
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("test error [%]")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown row for each run."""
    lines = [
        "| selector | test error | scored | back-propagated | cost | wall |",
        "|---|---|---|---|---|---|",
    ]
    for run in runs:
        end, last = run["end"], run["curve"][-1]
        lines.append(
            f"| {run['selector']} | {last['eval/error']:.2%} | {end['num_scored']:,} | "
            f"{end['num_backpropped']:,} | {end['cost']:.2f} | {end['wall_time_s']:.0f} s |"
        )
    return "\n".join(lines)


def main(name: str, folders: list[str]) -> None:
    """Write the record and print its table."""
    runs = [read_run(Path(folder)) for folder in folders]
    RECORDS.mkdir(exist_ok=True)
    record = {"hardware": hardware(), "runs": runs}
    (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1))
    draw(runs, RECORDS / f"{name}.png")
    print(table(runs))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
