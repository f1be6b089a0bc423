"""Does it pay? Error against cost of every way of selecting, on MNIST.

Time to a target along one run measures the schedule of the learning rate, not the method: uniform
training with half the schedule "wins" it. Here each method is trained from the start at each budget
of cost, with a schedule of its own that ends when the budget is spent, and what is compared is the
cost at which two frontiers reach the same error.

cost = (rows back-propagated + r x rows scored) / N, r measured on this machine before

    python pipelines/benchmarks/frontier.py --data FOLDER [--quick] [--processes 2]
        [--methods uniform,sb] [--regimes clean] [--seeds 1-5] [--budgets 1,2,3,4] [--report]

FOLDER holds train*.parquet and test*.parquet with `image` and `label`; without it the 5,000 digits
`mnist5k` serve. The learning rate is tuned for each method and regime on seed 0 at cost 2; all
figures come from the other seeds. Every cell is a file in `--cells`: an interrupted run goes on
where it was, what is not finished prints as `-`, and a later call with more methods adds to it.
Results go to `pipelines/records/`. What was expected before the first run: `frontier_expected.md`.
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from time import monotonic
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

from frontier_cells import Cell, Method, Setup, measure_ratio, rows_of, work, write
from frontier_plan import METHODS, Plan
from frontier_rows import REGIMES, folder_of

ROOT = Path(__file__).parents[2]
HEADLINE = ("uniform", "stale_sb", "sb")
HEADLINE_REGIMES = ("near_duplicates", "clean", "near_duplicates_wrong_labels")
QUICK_ROWS = 12_000
OVERHEAD = 1.1  # of a run's CPU time: evaluation, selection, loading


def run(plan: Plan, processes: int) -> None:
    """Run what is not finished, in processes of one thread; says after each cell what is left.

    A cell that ends in an error is said and left out; the next call tries it again.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Future[Any], Cell] = {}
    left_out: set[Cell] = set()
    began, before = monotonic(), plan.cost_left()
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        while True:
            while len(running) < processes:
                cell = plan.next(left_out | set(running.values()))
                if cell is None:
                    break
                job = pool.submit(
                    work, cell, plan.methods[cell.method], plan.setup, str(plan.folder)
                )
                running[job] = cell
            if not running:
                return
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(job)
                error = job.exception()
                if isinstance(error, BrokenProcessPool):
                    raise error
                if error is not None:
                    print(f"{cell.file}: left out, {error!r}", file=sys.stderr, flush=True)
                    left_out.add(cell)
                    continue
                plan.done[cell] = job.result()
                left = plan.cost_left()
                pace = (monotonic() - began) / max(before - left, 1e-9)
                print(_line(cell, plan.done[cell], left * pace), file=sys.stderr, flush=True)


def _line(cell: Cell, record: dict[str, Any], left_s: float) -> str:
    found = record.get("failed") or f"error {record['error']:.2%}, {record['seconds']:.0f} s"
    return f"{cell.file.removesuffix('.json')}: {found}; {left_s / 60:.0f} min left"


def main() -> int:
    """Measure r, run the cells, write the record."""
    options = _options()
    from frontier_report import report

    ratio = _ratio(options)
    plan = Plan(
        methods=options.methods,
        regimes=options.regimes,
        seeds=options.seeds,
        budgets=options.budgets,
        setup=Setup(options.data, options.limit, ratio["ratio"], ratio["half_ratio"]),
        folder=options.cells,
    )
    plan.load()
    unit_s = ratio["unit_s"]
    left = plan.cost_left()
    print(
        f"r = {ratio['ratio']:.3f}; {left:g} epochs of uniform training to pay, about "
        f"{left * unit_s / 60:.0f} CPU minutes, {left * unit_s / 60 / options.processes:.0f} "
        f"minutes on {options.processes} free cores",
        file=sys.stderr,
        flush=True,
    )
    if not options.report:
        try:
            run(plan, options.processes)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from here", file=sys.stderr)
        plan.load()
    for path in report(plan, ratio, options.out, name=options.name, quick=options.quick):
        print(f"written: {path}")
    return 0


def _ratio(options: argparse.Namespace) -> dict[str, float]:
    """What a scored row costs: measured once for a folder of cells, since they all charge it."""
    path = options.cells / "ratio.json"
    if path.is_file():
        found: dict[str, float] = json.loads(path.read_text())
        return found
    setup = Setup(options.data, options.limit, 0.0)
    found = measure_ratio(setup)
    found["unit_s"] = OVERHEAD * len(rows_of(setup, "clean")) * (found["read_s"] + found["train_s"])
    write(path, found)
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="folder with train*.parquet and test*.parquet")
    parser.add_argument("--methods", default=",".join(HEADLINE), help=", ".join(METHODS))
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CLASS key=value ...",
        help="a further method, e.g. 'sb3=SelectiveBackprop beta=3'",
    )
    parser.add_argument("--regimes", default=",".join(HEADLINE_REGIMES), help=", ".join(REGIMES))
    parser.add_argument("--seeds", help="e.g. 1-5 (the default) or 1,2; 0 is for tuning")
    parser.add_argument("--budgets", help="e.g. 1,2,3,4 (the default)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="2 seeds, 2 budgets, 12,000 rows")
    parser.add_argument("--report", action="store_true", help="write what is finished, run nothing")
    parser.add_argument("--cells", type=Path, help="default runs/frontier, runs/frontier_quick")
    parser.add_argument("--out", type=Path, default=ROOT / "pipelines" / "records")
    parser.add_argument("--name", default="frontier", help="how the record's name begins")
    options = parser.parse_args()
    quick = options.quick
    options.limit = QUICK_ROWS if quick else None
    options.cells = options.cells or ROOT / "runs" / ("frontier_quick" if quick else "frontier")
    options.seeds = _seeds(options.seeds or ("1-2" if quick else "1-5"))
    options.budgets = sorted(
        map(float, (options.budgets or ("1,2" if quick else "1,2,3,4")).split(","))
    )
    known = {**METHODS, **dict(map(_method, options.also))}
    names = [*_names(options.methods), *(word.partition("=")[0] for word in options.also)]
    options.regimes = _names(options.regimes)
    for given, allowed in ((names, known), (options.regimes, REGIMES)):
        if unknown := [name for name in given if name not in allowed]:
            parser.error(f"no {unknown[0]!r}; there are {', '.join(allowed)}")
    options.methods = {name: known[name] for name in ["uniform", *names]}
    try:
        options.data = folder_of(options.data)
        for method in options.methods.values():
            method.build()
    except (FileNotFoundError, AttributeError, TypeError, ValueError) as error:
        parser.error(str(error))
    return options


def _names(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _seeds(words: str) -> list[int]:
    """`1-3,7` as 1, 2, 3, 7."""
    spans = [word.partition("-") for word in words.split(",")]
    return [seed for low, _, high in spans for seed in range(int(low), int(high or low) + 1)]


def _method(words: str) -> tuple[str, Method]:
    """`sb3=SelectiveBackprop beta=3` as a name and a method."""
    name, _, rest = words.partition("=")
    selector, *given = rest.split()
    pairs = [word.partition("=") for word in given]
    return name, Method(selector, {key: json.loads(value) for key, _, value in pairs})


if __name__ == "__main__":
    sys.exit(main())
