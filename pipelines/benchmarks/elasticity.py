"""How fast the numbers of scorers and of train workers follow what there is, and what it costs.

    python pipelines/benchmarks/elasticity.py [--only a,b,c] [--repeats 3]

Every run is `raysb train` on Ray in a process of its own, on made-up rows that are all selected, so
that each must be trained exactly once an epoch. A net that waits makes scorers or trainers slow.

a  `scoring.num_actors=1,4`: a scorer takes .25 s for a pool of 32 rows until there have been four
   for 8 s; from then on trainers take .15 s for a step of 16 rows
b  the same where the trainers are slow from the start, for 40 s
c  `train.num_workers=1,2` on simulated machines, .25 s a step: one of two trainer machines is
   killed at step 20; when the other worker has made a new step, another machine joins

Numbers of scorers are read from the lines of the run's metrics, one a second. How soon the loss of
a machine is noticed is left to Ray. Results go to `pipelines/records/`.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file

from bench import throttled
from bench.elastic import lose_and_gain
from bench.hunger import fed, goals, hungry
from bench.measures import Measure, failed, text_table
from bench.records import context, write

ROOT = Path(__file__).parents[2]
PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "a": hungry,
    "b": fed,
    "c": lose_and_gain,
}


def main() -> int:
    """Run the parts; print and write the table of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, e.g. a,c")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "pipelines" / "records")
    options = parser.parse_args()
    folders = [str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)  # for workers, which import the net
    complete = True
    for part in options.only.split(","):
        about = context(sys.argv[1:], "benchmarks/elasticity.py")
        measures = measure(part, options.repeats)
        print(text_table(measures), flush=True)
        write(options.out, "elasticity", measures, about, quick=False)
        complete &= all(one.values for one in measures)
    return 0 if complete else 1


def measure(part: str, repeats: int) -> list[Measure]:
    """Run a part so many times, or until one of its runs fails."""
    found: dict[str, list[float]] = {}
    failures = []
    for _ in range(repeats):
        try:
            values = run_once(part)
        except Exception as error:
            print(part, error, file=sys.stderr, flush=True)
            failures = [failed(part, "a run", error)]
            break
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    bounds = {"rows lost": 0.0, "rows trained twice": 0.0} | goals()
    return [
        Measure(part=part, name=name, values=values, at_most=bounds.get(name))
        for name, values in found.items()
    ] + failures


def run_once(part: str) -> dict[str, float]:
    """One repeat, in a folder of its own."""
    with TemporaryDirectory(prefix="raysb-elasticity-") as folder:
        os.environ[throttled.FILE] = str(Path(folder) / "pace.json")
        values = PARTS[part](Path(folder))
    print(part, values, file=sys.stderr, flush=True)
    return values


if __name__ == "__main__":
    sys.exit(main())
