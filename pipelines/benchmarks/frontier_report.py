"""The record of the frontier benchmark: JSON with every run, tables, and a figure."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from bench.records import context, hardware
from frontier_cells import Cell
from frontier_fit import LEVEL, Ratio, Runs, mean_and_spread, ratios
from frontier_plan import Plan, backprop_epochs
from matplotlib import pyplot, ticker

COMPARED = 3  # of uniform training's budgets, the largest first
COLUMNS = (  # name in a cell, heading, factor, digits
    ("error", "error %", 100, 2),
    ("error_real", "real rows %", 100, 2),
    ("error_moved", "moved rows %", 100, 2),
    ("loss", "test loss", 1, 4),
    ("worst_class_error", "worst class %", 100, 2),
    ("kept_fraction", "kept", 1, 2),
    ("passes", "passes", 1, 1),
    ("wrong_trained", "wrong labels among trained %", 100, 1),
    ("copied_trained", "copies among trained %", 100, 1),
    ("mean_age_steps", "mean age [steps]", 1, 1),
    ("max_age_steps", "max age [steps]", 1, 0),
    ("cpu_s", "CPU [s]", 1, 0),
)
RECORDS = Path(__file__).parents[1] / "records"
NOTE = f"""\
Ratios are to uniform training at the error that it has at the budget named, on frontiers that are
the mean over seeds, made to fall, and linear between budgets; below 1 the method is cheaper. In
brackets the {LEVEL:.0%} bootstrap interval over paired seeds. `never`: not reached at the largest
budget. A method that is better at its smallest budget already counts with that budget, so its ratio
is an upper bound. `-`: not finished."""
WALL = """\
Cost counts forward and backward passes, not reading, augmentation, selection or idle scorers; the
CPU seconds of the tables count all but the last, and evaluation, under whatever load there was.
Wall time against uniform training on all cores, the scorers' included, is measured apart, on Ray:
`frontier_wall.py`."""


def report(plan: Plan, ratio: dict[str, float], out: Path, *, name: str, quick: bool) -> list[Path]:
    """Write the record of what is finished; returns its files."""
    stem = f"{name}_{os.cpu_count()}cpu_{datetime.now(UTC):%Y-%m}{'_quick' if quick else ''}"
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "title": "frontier",
        "hardware": hardware(),
        **_context(),
        "measured": ratio,
        "setup": {**asdict(plan.setup), "data": "parquet" if plan.setup.data else "mnist5k"},
        "methods": {key: asdict(method) for key, method in plan.methods.items()},
        "rates": {f"{r} {m}": plan.rate(r, m) for r in plan.regimes for m in plan.methods},
        "wall": None,
        "ratios": [_ratio_json(line) for line in comparisons(plan)],
        "cells": [plan.done[cell] for cell in _cells(plan)],
        "tuning": [plan.done[cell] for cell in plan.tuning() if cell in plan.done],
    }
    paths = [out / f"{stem}.{suffix}" for suffix in ("json", "md", "png")]
    paths[0].write_text(json.dumps(record, indent=1) + "\n")
    paths[1].write_text(page(plan, record, name, stem))
    draw(plan, paths[2])
    return paths


def _context() -> dict[str, Any]:
    about = context(sys.argv[1:])
    about["command"] = about["command"].replace("throughput.py", "frontier.py")
    return about


def _cells(plan: Plan) -> list[Cell]:
    return [cell for cell in plan.figures() if cell is not None and cell in plan.done]


def comparisons(plan: Plan) -> list[dict[str, Any]]:
    """Every method against uniform training, at the error of its largest budgets."""
    lines = []
    for regime in plan.regimes:
        for method in plan.methods:
            if method == "uniform":
                continue
            seeds = plan.whole_seeds(regime, ("uniform", method))
            for index in range(
                len(plan.budgets) - 1, max(len(plan.budgets) - 1 - COMPARED, -1), -1
            ):
                line = {"regime": regime, "method": method, "at": plan.budgets[index]}
                line |= {"seeds": seeds, "error": None, "cost": None, "rows": None}
                if seeds:
                    uniform = plan.runs(regime, "uniform", seeds)
                    cost, rows = ratios(plan.runs(regime, method, seeds), uniform, index)
                    error = float(uniform.frontier().error[index])
                    line |= {"error": error, "cost": cost, "rows": rows}
                lines.append(line)
    return lines


def _ratio_json(line: dict[str, Any]) -> dict[str, Any]:
    def numbers(ratio: Ratio | None) -> dict[str, float | None] | None:
        if ratio is None:
            return None
        return {k: v if math.isfinite(v) else None for k, v in asdict(ratio).items()}

    return {**line, "cost": numbers(line["cost"]), "rows": numbers(line["rows"])}


def page(plan: Plan, record: dict[str, Any], name: str, stem: str) -> str:
    """The record for people."""
    where = record["hardware"]
    measured = record["measured"]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    parts = [
        "# Cost frontier of selection methods",
        f"{where['cores']} cores of {where['cpu']}, {where['memory_GiB']} GiB; "
        f"{record['setup']['data']}, one thread a run. `{record['command']}`, "
        f"{record['date']}, commit {record['commit']}, {versions}.",
        f"A scored row costs r = {measured['ratio']:.3f} of a trained one (measured here: "
        f"{1e6 * measured['score_s']:.0f} and {1e6 * measured['train_s']:.0f} us of CPU). Net: "
        "convolutions of 16, 32, 64 channels with group norm; batch 64, SGD with Nesterov momentum "
        "0.9, weight decay 5e-4, crops moved by up to 2 pixels; learning rate flat for 70 % of the "
        "cost, then linear to 0.",
        f"![error against cost]({stem}.png)",
        "## Ratios at equal error",
        NOTE,
        _ratio_table(plan, name),
        WALL,
        "## Means over seeds",
        *(f"### {regime}\n\n{_cell_table(plan, regime)}" for regime in plan.regimes),
        "## Learning rates",
        f"Smallest error on seed 0 at cost 2. Errors in %.\n\n{_rate_table(plan)}",
    ]
    return "\n\n".join(parts) + "\n"


def _ratio_table(plan: Plan, name: str) -> str:
    expected = {} if plan.setup.limit or not plan.setup.data else read_expected(name)
    head = ("regime", "method", "at uniform's cost", "its error %", "cost ratio", "rows ratio")
    rows = []
    for line in comparisons(plan):
        before = expected.get((line["regime"], line["method"], f"{line['at']:g}"), ("", ""))
        error = "-" if line["error"] is None else f"{100 * line['error']:.2f}"
        texts = [_with_expected(line[k], b) for k, b in zip(("cost", "rows"), before, strict=True)]
        rows.append(
            (
                line["regime"],
                line["method"],
                f"{line['at']:g}",
                error,
                *texts,
                str(len(line["seeds"])),
            )
        )
    return _table((*head, "seeds"), rows)


def read_expected(name: str) -> dict[tuple[str, str, str], tuple[str, str]]:
    """What was written down before the runs of a record, by regime, method, budget of uniform."""
    found, path = {}, RECORDS / f"{name}_expected.md"
    for line in path.read_text().splitlines() if path.is_file() else []:
        words = [word.strip() for word in line.strip("|").split("|")]
        if line.startswith("|") and len(words) == 5:
            found[words[0], words[1], words[2]] = (words[3], words[4])
    return found


def _with_expected(ratio: Ratio | None, expected: str) -> str:
    return ratio_text(ratio) + (f"; expected {expected}" if expected else "")


def ratio_text(ratio: Ratio | None) -> str:
    """`.62 [.55, .71]`."""
    if ratio is None:
        return "-"
    value, low, high = (
        f"{number:.2f}" if math.isfinite(number) else "never"
        for number in (ratio.value, ratio.low, ratio.high)
    )
    return f"{value} [{low}, {high}]"


def _cell_table(plan: Plan, regime: str) -> str:
    head = ("method", "cost", "rows", *(title for _, title, _, _ in COLUMNS), "lr", "seeds")
    rows = []
    for method in plan.methods:
        for cost in plan.budgets:
            cells = [plan.find(regime, method, cost, seed) for seed in plan.seeds]
            found = [cell for cell in cells if cell is not None]
            lr = plan.rate(regime, method)
            epochs = [backprop_epochs(cell) for cell in found]
            rows.append(
                (
                    method,
                    f"{cost:g}",
                    _mean(epochs, 1, 2),
                    *(_mean([c[key] for c in found], by, digits) for key, _, by, digits in COLUMNS),
                    "-" if lr is None else f"{lr:g}",
                    str(len(found)),
                )
            )
    return _table(head, rows)


def _mean(values: Sequence[float | None], factor: float, digits: int) -> str:
    known = np.array([value for value in values if value is not None], np.float64) * factor
    if not len(known):
        return "-"
    mean, spread = mean_and_spread(known)
    return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _rate_table(plan: Plan) -> str:
    tried: dict[tuple[str, str], dict[float, str]] = {}
    for cell in plan.tuning():
        found = plan.done.get(cell, {}).get("error")
        text = "-" if found is None else f"{100 * found:.2f}"
        tried.setdefault((cell.regime, cell.method), {})[cell.lr] = text
    rates = list(next(iter(tried.values()), {}))
    rows = [(*pair, *errors.values()) for pair, errors in tried.items()]
    return _table(("regime", "method", *(f"lr {rate:g}" for rate in rates)), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(plan: Plan, path: Path) -> None:
    """Error against cost and against rows back-propagated: a point a run, a line a frontier."""
    size = (3.6 * len(plan.regimes) + 2.2, 6.4)
    colours = pyplot.get_cmap("tab10" if len(plan.methods) <= 10 else "tab20")
    figure, axes = pyplot.subplots(
        2, len(plan.regimes), figsize=size, squeeze=False, sharey="col", layout="constrained"
    )
    for column, regime in enumerate(plan.regimes):
        axes[0][column].set_title(regime.replace("_", " "), fontsize=10)
        for number, method in enumerate(plan.methods):
            seeds = plan.whole_seeds(regime, [method])
            if seeds:
                runs = plan.runs(regime, method, seeds)
                for axis, across in zip(
                    axes[:, column], (runs.cost, runs.backpropped), strict=True
                ):
                    _points(axis, across, runs, colours(number % 20), method)
        for axis in axes[:, column]:
            axis.set_yscale("log")
            for names in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                names(ticker.FormatStrFormatter("%g"))
            axis.grid(alpha=0.3, which="both")
        axes[0][column].set_xlabel("cost [epochs of uniform training]")
        axes[1][column].set_xlabel("rows back-propagated [epochs]")
    for row in axes:
        row[0].set_ylabel("test error [%]")
    if axes[0][0].get_legend_handles_labels()[0]:
        figure.legend(
            *axes[0][0].get_legend_handles_labels(), fontsize=8, loc="outside right upper"
        )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _points(axis: Any, across: Any, runs: Runs, colour: Any, label: str) -> None:
    axis.plot(across, 100 * runs.error, ".", color=colour, markersize=4, alpha=0.6)
    line = 100 * runs.frontier().error
    axis.plot(across.mean(axis=0), line, "-", color=colour, linewidth=1.5, label=label)
