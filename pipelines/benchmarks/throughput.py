"""How fast the stream is against plain loops, and where the rest goes.

The claims that it measures, medians over alternating repeats in one run, one thread a process:

a  `Uniform` through the stream trains at least .95 of the rows/s of a bare PyTorch loop
b  under Selective-Backprop the trainer waits at most 5 % of its time where scorers suffice
c  an epoch of Selective-Backprop takes at most .60 of that in one process with one thread, .80 of
   that with all cores; CPU by process says where the rest goes
d  15 s from the command to the first step, 2 s from the last step to the prompt, nothing between
   epochs; a run of 1,000 epochs starts within 2 s of a run of one
e  rows/s of the loss history with 1 and 4 shards; its bytes per id
f  pools/s through the split coordinator to 2 and 8 consumers
g  seconds from the death of a train worker to the next batch
h  scorers that sleep 50 ms a pool scale at least .9 linearly from 1 to 8

    python pipelines/benchmarks/throughput.py [--only a,b,...] [--quick] [--repeats 3]

Rows are made up unless `--data` names parquet files. Absolute times depend on the machine and on
what else it does; the ratios are of arms that alternate. Results go to `pipelines/records/`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PARTS = "abcdefgh"
GROUPS = ("abc", "d", "e", "f", "g", "h")  # what shares a process, and a Ray cluster
LIMIT_S, QUICK_LIMIT_S = 3600, 600  # of a part's process
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]


def main() -> int:
    """Run the parts, each in a process of its own; print and write the table."""
    options = _options()
    if options.arm:
        from bench.one_process import main as arm

        arm(json.loads(options.arm))
        return 0
    if options.group:
        _run_group(options)
        return 0

    from bench.measures import Measure, text_table
    from bench.records import context, write

    about = context(sys.argv[1:])
    measures: list[Measure] = []
    for group in GROUPS:
        wanted = "".join(part for part in group if part in options.only)
        if wanted:
            print(f"part {', '.join(wanted)} ...", file=sys.stderr, flush=True)
            found = _in_process(wanted, options)
            measures += found
            print(text_table(found), flush=True)
    for path in write(options.out, "throughput", measures, about, quick=options.quick):
        print(f"written: {path}")
    return 0 if all(m.values for m in measures) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, e.g. a,c")
    parser.add_argument("--quick", action="store_true", help="once and short, to see that it works")
    parser.add_argument("--repeats", type=int, help="of every arm; 3, or 1 with --quick")
    parser.add_argument("--nets", default="mlp,cnn", help="for a, b, c")
    parser.add_argument("--shapes", default="mnist,cifar10", help="for a, b, c")
    parser.add_argument("--data", help="parquet with `image` and `label`, in place of made-up rows")
    parser.add_argument("--out", type=Path, default=ROOT / "pipelines" / "records")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--group", help=argparse.SUPPRESS)
    parser.add_argument("--found", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data = options.data and str(Path(options.data).absolute())
    options.only = [part.strip() for part in options.only.split(",")]
    if unknown := [part for part in options.only if part not in tuple(PARTS)]:
        parser.error(f"--only: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


def _in_process(parts: str, options: argparse.Namespace) -> list[Any]:
    """The measures of some parts; what hangs or crashes is said and left behind."""
    from bench.measures import Measure, failed

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    paths = [str(Path(__file__).parent), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    limit = QUICK_LIMIT_S if options.quick else LIMIT_S
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        words = [sys.executable, __file__, *sys.argv[1:], "--group", parts, "--found", file.name]
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = f"a stop after {limit} s"
        finally:
            _end(process)
        lines = Path(file.name).read_text().splitlines()
    measures = [Measure(**json.loads(line)) for line in lines]
    missing = [part for part in parts if part not in {m.part for m in measures}]
    if code and not missing:
        measures.append(
            failed(parts[-1], "the rest of this part", f"its process ended with {code}")
        )
    return measures + [failed(p, "this part", f"its process ended with {code}") for p in missing]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a part's processes, those of Ray too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _run_group(options: argparse.Namespace) -> None:
    """In the part's own process: measure, and leave every line as soon as it is known."""
    with open(options.found, "a", buffering=1) as file:

        def report(line: object) -> None:
            file.write(json.dumps(vars(line)) + "\n")

        _measure(options.group, options, report)


def _measure(parts: str, options: argparse.Namespace, report: Callable[..., None]) -> None:
    quick, repeats = options.quick, options.repeats
    if parts[0] in "abc":
        from bench import training
        from bench.problem import SHAPES, Problem, look_at

        sizes = [(SHAPES[name], training.MOST_ROWS) for name in options.shapes.split(",")]
        if options.data:
            shape, rows = look_at(options.data)
            sizes = [(shape, min(rows, training.MOST_ROWS))]
        problems = [
            Problem(net=net, shape=shape, count=count, data=options.data)
            for net in options.nets.split(",")
            for shape, count in sizes
        ]
        effort = training.Effort(repeats=repeats, seconds=2.0 if quick else 6.0)
        training.measure(parts, problems, effort, report)
    elif parts == "d":
        from bench import command

        command.measure(repeats, options.data, report)
    elif parts == "e":
        from bench import history

        history.measure(repeats, 500_000 if quick else 2_000_000, report)
    elif parts == "f":
        from bench import coordinator

        coordinator.measure(repeats, 300 if quick else 1000, report)
    elif parts == "g":
        from bench import fault

        fault.measure(repeats, report)
    else:
        from bench import scorers

        scorers.measure(repeats, 40 if quick else 80, report)


if __name__ == "__main__":
    sys.exit(main())
