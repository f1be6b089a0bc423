"""What a run survives: each part of it killed, stopped or starved, and what that cost.

    python pipelines/benchmarks/faults.py [--only scorer,worker] [--data mnist5k] [--epochs 4]

Every case is `raysb train` on Ray in a process of its own, with every row selected, so that each
must be trained exactly once an epoch; when about a third of the steps are done the fault comes. The
table goes to `pipelines/records/faults_*.md`, where cases that were not run stay: the longest time
without a step that is new, rows lost, rows trained twice in what the run keeps, rows trained anew
because they lay behind the last checkpoint, the final error. The cases with a small disk need root.
"""

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import runs
from bench.records import context
from record import hardware

from raysb.report.records import read_metrics
from raysb.training.audit import read_audit

RECORDS = Path(__file__).parents[1] / "records"
BATCH, CHECKPOINT_EVERY = 32, 25
ROLES = {  # of a process, by its title
    "scorer": r"ray::.*PoolScorer",
    "reader": r"ray::.*PoolReader",
    "history shard": r"ray::HistoryShard",
    "train worker": r"ray::.*RayTrainWorker",
    "split coordinator": r"ray::SplitCoordinator",
    "ledger": r"ray::LedgerService",
    "board": r"ray::BoardState",
    "train controller": r"ray::.*TrainController",
}
TOLD = (
    *("going on", "started again", "no checkpoint", "interrupted", "stopp", "cannot be"),
    "no space",
)
PAUSE_S = 10.0  # for which some are stopped
SLOW_S = 20.0
FULL_STEPS = 2 * CHECKPOINT_EVERY + 10
SPILLS = "rows that do not fit into the object store"
FITS = "the same rows in a store that holds them"
MOVES = "a machine with a scorer goes, another comes"
SCORERS = {"num_cpus": 1, "resources": {"scorer": 3}}  # room for one scorer that asks for 2 of 3
WORKERS = {"num_cpus": 2, "resources": {"trainer": 2}}


@dataclass
class Run(runs.Run):
    """A run that has a fault."""

    options: argparse.Namespace
    extra: tuple[str, ...] = ()
    cluster: Any = None  # of several machines, where the case has some
    machines: list[Any] = field(default_factory=list)

    @property
    def small(self) -> Path:
        """A small disk, where the case has one."""
        return self.folder / "small"

    def start(self, *words: str) -> None:
        """Begin it, or go on with it."""
        settings = [
            *("--data.train", self.options.data, "--model.name", "cnn"),
            *("--selector.min_probability", "1", "--train.epochs", str(self.options.epochs)),
            *("--train.batch_size", str(BATCH), "--train.audit", "true", "--train.lr", "0.02"),
            *("--train.checkpoint_every", str(CHECKPOINT_EVERY), "--scoring.num_cpus", "0.2"),
            *("--scoring.num_actors", "2", "--train.num_cpus", "0.2", "--train.num_workers", "2"),
            *("--train.num_threads", "1", "--run.loggers", "[]", "--train.max_failures", "100"),
            *("--run.dir", str(self.directory), *self.extra),
        ]
        super().start(*(words or settings))

    def find(self, role: str) -> list[int]:
        """Processes of a role."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    ours = f"{runs.MARK}={self.folder}".encode() in (entry / "environ").read_bytes()
                except OSError:
                    continue
                if ours and re.match(ROLES[role], title):
                    found.append(int(entry.name))
        return sorted(found)


class LongestPause:
    """The longest time in which a run made no step that it had not made before."""

    def __init__(self, run: Run) -> None:
        self._run, self._over, self._longest = run, threading.Event(), 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        newest, since = self._run.step(), time.monotonic()
        while not self._over.wait(0.05):
            if (step := self._run.step()) > newest:
                newest, now = step, time.monotonic()
                self._longest, since = max(self._longest, now - since), now

    def end(self) -> float:
        """Seconds."""
        self._over.set()
        self._thread.join()
        return self._longest


def kill(role: str) -> Any:
    """A fault: one process of a role dies."""

    def fault(run: Run) -> None:
        os.kill(run.find(role)[-1], signal.SIGKILL)

    return fault


def pause(role: str) -> Any:
    """A fault: one process of a role stands still for a while."""

    def fault(run: Run) -> None:
        pid = run.find(role)[-1]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(PAUSE_S)
        os.kill(pid, signal.SIGCONT)

    return fault


def slow(role: str) -> Any:
    """A fault: one process of a role gets a tenth of its time for a while."""

    def fault(run: Run) -> None:
        pid, until = run.find(role)[-1], time.monotonic() + SLOW_S
        with suppress(ProcessLookupError):  # its part of the run may be over before
            while time.monotonic() < until:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.45)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.05)

    return fault


def full_disk(run: Run) -> None:
    """A fault: where checkpoints go there is no room for some of them."""
    until = run.step() + FULL_STEPS
    fill(run.small)
    run.reach(until)
    (run.small / "fill").unlink()


def full_to_the_end(run: Run) -> None:
    """A fault: there is none until the run has ended, with an error; then it goes on."""
    fill(run.small)
    run.end()
    (run.small / "fill").unlink()
    time.sleep(5)
    run.start("--resume", str(run.directory))


def fill(folder: Path) -> None:
    """Leave no byte of a disk."""
    with suppress(OSError), open(folder / "fill", "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def on_small_disk(run: Run) -> None:
    """Before a run: its checkpoints go to a disk of 64 MB, mounted in this process's own view."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or subprocess.call(["mount", "--make-rprivate", "/"]):
        raise PermissionError("only root may mount the small disk of this case")
    run.small.mkdir()
    subprocess.check_call(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(run.small)])
    run.extra = ("--run.checkpoints", str(run.small / "checkpoints"))


def on_machines(run: Run) -> None:
    """Before a run: a simulated cluster, two machines for a scorer each and one for workers."""
    from ray.cluster_utils import Cluster

    run.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    run.machines = [run.cluster.add_node(**each) for each in (SCORERS, SCORERS, WORKERS)]
    run.cluster.wait_for_nodes()
    run.address = ("--address", run.cluster.address)
    run.environment = {"RAY_AUTH_MODE": "disabled"}  # as Cluster() starts its machines
    run.extra = ("--scoring.resources.scorer", "2", "--train.resources.trainer", "1")


def lose_machine(run: Run) -> None:
    """A fault: a machine with a scorer is gone, with all its processes; later another comes."""
    run.cluster.remove_node(run.machines[0], allow_graceful=False)
    time.sleep(PAUSE_S)
    run.cluster.add_node(**SCORERS)


def with_small_store(run: Run) -> None:
    """Before a run: those rows, and an object store of 80 MB."""
    with_wide_rows(run)
    run.environment = {
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 * 2**20),
        "RAY_BACKEND_LOG_LEVEL": "info",  # which says what is spilled
    }


def with_wide_rows(run: Run) -> None:
    """Before a run: wide rows, 150 MB an epoch in pools of 37 MB."""
    width, rng = 24_300, np.random.default_rng(0)
    for name, rows in (("train", 1536), ("test", 256)):
        columns = {"id": np.arange(rows), "label": rng.integers(10, size=rows)}
        wide = rng.random((rows, width), np.float32)
        wide[:, :1000] += columns["label"][:, None]  # something to learn
        columns["x"] = pa.FixedSizeListArray.from_arrays(wide.ravel(), width)
        pq.write_table(pa.table(columns), run.folder / f"{name}.parquet", row_group_size=128)
    run.options = argparse.Namespace(**vars(run.options) | {"rows": 1536})
    run.extra = (
        *("--data.train", str(run.folder / "train.parquet"), "--data.inputs", "x"),
        *("--data.test", str(run.folder / "test.parquet"), "--scoring.batch_size", "384"),
        *("--model.name", "mlp", "--model.args.hidden", "[8]", "--train.lr", "0.001"),
    )


def spilled_mb() -> float:
    """What the newest Ray of this machine has written to its disk."""
    newest = max(Path("/tmp/ray").glob("session_2*"), key=lambda path: path.stat().st_mtime)
    found = [0.0]
    for log in newest.glob("logs/raylet*.out"):
        found += [float(each) for each in re.findall(r"Spilled (\d+) MiB", log.read_text())]
    return max(found)


def again(*numbers: int) -> Any:
    """A fault: the command itself gets signals, and is called again with --resume."""

    def fault(run: Run) -> None:
        for number in numbers:
            run.process.send_signal(number)
            time.sleep(0.2)
        run.end()
        time.sleep(5)  # its Ray ends with it
        run.start("--resume", str(run.directory))

    return fault


def no_fault(run: Run) -> None:
    """Nothing happens."""


CASES: dict[str, Any] = {
    "nothing": no_fault,
    **{f"SIGKILL of a {role}": kill(role) for role in ROLES},
    f"a scorer stands still for {PAUSE_S:g} s": pause("scorer"),
    f"a train worker stands still for {PAUSE_S:g} s": pause("train worker"),
    f"a scorer is ten times slower for {SLOW_S:g} s": slow("scorer"),
    f"a train worker is ten times slower for {SLOW_S:g} s": slow("train worker"),
    f"no room for checkpoints for {FULL_STEPS} steps": full_disk,
    "no room for checkpoints to the end, then --resume": full_to_the_end,
    SPILLS: no_fault,
    FITS: no_fault,
    MOVES: lose_machine,
    "SIGINT, then --resume": again(signal.SIGINT),
    "SIGINT twice, then --resume": again(signal.SIGINT, signal.SIGINT),
    "SIGTERM, then --resume": again(signal.SIGTERM),
    "SIGKILL of the command, then --resume": again(signal.SIGKILL),
}


BEFORE: dict[str, Any] = {
    **{name: on_small_disk for name in CASES if name.startswith("no room")},
    SPILLS: with_small_store,
    FITS: with_wide_rows,
    MOVES: on_machines,
}


def run_case(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run with one fault."""
    with TemporaryDirectory(prefix="raysb-faults-") as folder:
        run = Run(Path(folder), options)
        BEFORE.get(name, no_fault)(run)
        run.start()
        try:
            run.reach(options.at)
            before = run.step()
            recovery = LongestPause(run)
            CASES[name](run)
            code = run.end()
            found = {"case": name, "exit": code, "pause_s": recovery.end(), **judge(run, before)}
            return found | ({"spilled_mb": spilled_mb()} if name == SPILLS else {})
        finally:
            if run.process.poll() is None:
                run.process.kill()
            if run.cluster is not None:
                run.cluster.shutdown()
            if run.small.is_mount():
                subprocess.call(["umount", "-l", str(run.small)])


def judge(run: Run, before: int) -> dict[str, Any]:
    """Which rows were trained how often, and what came of it."""
    if not (run.directory / "metrics.jsonl").exists():
        return {"failed": run.output()[-1500:]}
    lines = read_metrics(run.directory)
    end = next((line for line in reversed(lines) if line["kind"] == "end"), None)
    if end is None:
        return {"failed": run.output()[-1500:]}
    trained = read_audit(run.directory / "audit").to_pydict()
    count = Counter(zip(trained["pool"], trained["id"], strict=True))
    resumed = run.resumed_at()
    redone = max(0, before - resumed[0]) * BATCH * 2 if resumed else 0
    rows = end["num_backpropped"]
    return {
        "rows": rows,
        "lost": run.options.epochs * run.options.rows - len(count),
        "twice": sum(count.values()) - len(count),
        "redone": redone,
        "restarts": len(resumed),
        "error": next(t["eval/error"] for t in reversed(lines) if "eval/error" in t),
        "said": [
            t.strip().replace(str(run.folder), "FOLDER")
            for t in run.output().splitlines()
            if any(word in t for word in TOLD)
        ],
    }


def seen(said: list[str]) -> str:
    """What the user sees, in short."""
    found = [re.sub(r"\s+", " ", text.replace("|", "/")) for text in dict.fromkeys(said)]
    short = [text if len(text) <= 110 else f"{text[:107]}..." for text in found[:3]]
    return "; ".join(short) or "nothing"


def table(results: list[dict[str, Any]]) -> str:
    """As it stands in the record."""
    lines = [
        "| fault | longest pause [s] | rows lost | trained twice | trained anew since "
        "the last checkpoint | error % | exit | load average | what the user sees |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in sorted({r["case"] for r in results}, key=list(CASES).index):
        ones = [r for r in results if r["case"] == case]
        if any("failed" in r for r in ones):
            lines.append(f"| {case} | - | - | - | - | failed | {ones[0]['exit']} | - | - |")
            continue
        cells = [
            f"{median(r['pause_s'] for r in ones):.1f}",
            *(str(max(r[key] for r in ones)) for key in ("lost", "twice", "redone")),
            f"{100 * median(r['error'] for r in ones):.2f}",
            str(ones[0]["exit"]),
            str(ones[0]["load"]),
            seen(ones[0]["said"]),
        ]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="words of the cases to run")
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--rows", type=int, default=4000, help="training rows of an epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--at", type=int, default=90, help="the step at which the fault comes")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RECORDS)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [""]
    cases = [name for name in CASES if any(word in name for word in wanted)]
    results: list[dict[str, Any]] = []
    # a shell's background job ignores Ctrl-C, and so would the runs that are interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)
    commit = context((), "benchmarks/faults.py")["commit"]
    for _ in range(options.repeats):
        for name in cases:
            found = run_case(name, options)
            results.append(found | {"load": round(os.getloadavg()[0]), "commit": commit})
            print(json.dumps(results[-1]), flush=True)
            write(options, results)
    print(table(results))


def write(options: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """Put what was run by now into the record; cases that were not run stay as they were."""
    name = f"faults_{os.cpu_count()}cpu_{time.strftime('%Y-%m')}"
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / f"{name}.json"
    kept = json.loads(record.read_text())["results"] if record.exists() else []
    gone = set(CASES) - {each["case"] for each in results}
    results = results + [each for each in kept if each["case"] in gone]
    said = {"hardware": hardware(), "results": results}
    record.write_text(json.dumps(said, indent=1) + "\n")
    here = ", ".join(f"{key} {value}" for key, value in hardware().items())
    head = f"# What a run survives\n\n{here}; n = {options.repeats}.\n\n"
    (options.out / f"{name}.md").write_text(head + table(results) + "\n")


if __name__ == "__main__":
    main()
