"""One long run in which something dies again and again; in the end every row is accounted for.

    python pipelines/benchmarks/soak.py [--kills 50] [--epochs 40] [--seed 0]

`raysb train` on Ray, every row selected; scorers, readers, shards, train workers, the coordinator,
the ledger, the board and the train controller are killed at random, the next one when new steps
were made since the last. Every (epoch, id) must be trained exactly once in what the run keeps. The
record goes to `pipelines/records/soak_*.md`.
"""

import argparse
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from faults import RECORDS, ROLES, Run, hardware, judge

RARE = ("ledger", "board", "train controller")  # with which everything starts again


def victim(run: Run, rng: random.Random) -> tuple[str, int] | None:
    """A process to kill, the rare ones one time in eight."""
    roles = list(RARE) if rng.random() < 1 / 8 else [r for r in ROLES if r not in RARE]
    role = rng.choice(roles)
    found = run.find(role)
    return (role, rng.choice(found)) if found else None


def main() -> None:
    """Kill, wait, kill; then judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--rows", type=int, default=4000, help="training rows of an epoch")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RECORDS)
    options = parser.parse_args()
    rng, killed, began = random.Random(options.seed), Counter[str](), time.monotonic()
    with TemporaryDirectory(prefix="raysb-soak-") as folder:
        run = Run(Path(folder), options)
        run.start()
        try:
            newest = 0
            run.reach(20)
            while killed.total() < options.kills and run.process.poll() is None:
                newest = max(newest, run.step())
                chosen = victim(run, rng)
                if chosen is None:
                    time.sleep(0.5)
                    continue
                os.kill(chosen[1], signal.SIGKILL)
                killed[chosen[0]] += 1
                print(f"{time.monotonic() - began:7.1f} s, step {newest}: {chosen[0]}", flush=True)
                run.reach(newest + rng.randrange(5, 40))
            code = run.end(3600)
            found = judge(run, 0)
        finally:
            if run.process.poll() is None:
                run.process.kill()
    seconds = time.monotonic() - began
    said = {"killed": dict(killed), "exit": code, "seconds": seconds, **found}
    print(json.dumps(said))
    stem = f"soak_{os.cpu_count()}cpu_{time.strftime('%Y-%m')}"
    (options.out / f"{stem}.json").write_text(json.dumps(said | {"hardware": hardware()}, indent=1))
    rows = [f"| {role} | {count} |" for role, count in killed.most_common()]
    here = ", ".join(f"{key} {value}" for key, value in hardware().items())
    text = (
        f"# {killed.total()} kills in one run\n\n{here}.\n\n"
        f"{found.get('rows')} rows were trained in {seconds:.0f} s; lost {found.get('lost')}, "
        f"trained twice {found.get('twice')}, {found.get('restarts')} restarts from a checkpoint, "
        f"exit code {code}, error {100 * found.get('error', float('nan')):.2f} %.\n\n"
        "| killed | times |\n| --- | --- |\n" + "\n".join(rows) + "\n"
    )
    (options.out / f"{stem}.md").write_text(text)


if __name__ == "__main__":
    main()
