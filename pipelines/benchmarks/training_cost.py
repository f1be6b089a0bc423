"""What training pays for its bookkeeping: metrics and watchdog, the global count, a resume.

    python pipelines/benchmarks/training_cost.py [--parts A,B,C] [--out FOLDER]

A  Ray: CPU time of driver, ledger and board with the run's metrics, its watchdog and one line a
   second, against the same processes without; and how long a line holds up the training thread.
B  2 gloo processes: steps of `Learner` on a stream, which agree on the number of rows of all
   workers, against the same steps of plain DDP, in turn; wall time and CPU time of both processes.
C  Ray: seconds from the command to its first batch, of a new run and of one that goes on, in turn.

What is compared alternates within one run. The record goes to `pipelines/records/training_cost_*`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the raysb beside this file
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.distributed as dist
from bench.measures import Measure
from bench.records import context, write
from torch import nn

from raysb.losses import cross_entropy
from raysb.optim.registry import build_optimizer
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.batch_stream import BatchStream
from raysb.training.exchange import Exchange
from raysb.training.learner import Learner
from raysb.training.memory import keep_freed_pages
from raysb.training.settings import Training
from raysb.training.spec import StreamSpec

BATCH, BLOCK = 32, 4  # rows of a step, steps between two readings
TRAINING = Training(batch_size=BATCH, num_workers=2, lr=0.01, use_gpu=False)
NETS = {  # features, width, pairs of readings
    "small: mlp": (64, 64, 60),
    "medium: conv": (3 * 32 * 32, 32, 60),
    "large: conv": (3 * 32 * 32, 64, 40),
}


# --- B: the step ---------------------------------------------------------------------------------


def build(features: int, width: int) -> nn.Module:
    """A net of a step of about 1 ms, of some 25 ms, or of some 70 ms."""
    torch.manual_seed(0)
    if features == 64:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    twice = 2 * width
    return nn.Sequential(
        *(nn.Unflatten(1, (3, 32, 32)), nn.Conv2d(3, width, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(width, twice, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * twice, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def rows(features: int, count: int) -> dict[str, np.ndarray]:
    """Rows of noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, features)).astype(np.float32)
    return {"x": x, "label": rng.integers(10, size=count)}


class Endless(BatchStream):
    """Selected rows that are there already, for ever; all else as on Ray."""

    def __init__(self, features: int, width: int) -> None:
        columns = rows(features, 64)
        task = Task(
            model=lambda: build(features, width), forward=inputs("x"), loss=cross_entropy("label")
        )
        spec = StreamSpec(
            source=ArraySource(columns),
            task=task,
            selector=SelectiveBackprop(),
            scoring=Scoring(batch_size=64),
        )
        super().__init__(spec, check_first_batch=False)
        self.exchange = Exchange()
        ones = np.ones(64, np.float32)
        self._block = {**columns, "id": np.arange(64), "pool": np.zeros(64, np.int64)}
        self._block |= {"weight": ones, "loss": ones, "weights_step": np.zeros(64, np.int64)}

    def _open(self, batch_size: int, epochs: int, model: Any) -> Any:
        return self.spec.plan(batch_size, epochs)

    def _blocks(self) -> Any:
        while True:
            yield self._block

    def _publish(self, model: nn.Module) -> None:
        pass

    def _record_backward(self, ids: Any, losses: Any) -> None:
        pass

    def _close(self) -> None:
        pass

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """Of nobody."""
        return {}


def ours(features: int, width: int) -> Callable[[], None]:
    """A step as `raysb train` makes it."""
    stream = Endless(features, width)
    module = build(features, width)
    learner = Learner.build(stream.task, module, TRAINING, [torch.device("cpu")])
    batches = stream.iter_batches(batch_size=BATCH, epochs=1, model=learner.module)
    return lambda: learner.step(stream, next(batches), 1.0)


def plain(features: int, width: int) -> Callable[[], None]:
    """The same step of DDP alone."""
    model = nn.parallel.DistributedDataParallel(build(features, width))
    optimizer = build_optimizer(model, TRAINING)
    columns = rows(features, 64)

    def step() -> None:
        batch = {name: torch.from_numpy(column[:BATCH].copy()) for name, column in columns.items()}
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(batch["x"]), batch["label"]).backward()
        optimizer.step()

    return step


def work(rank: int, features: int, width: int, pairs: int, folder: str) -> None:
    """One of the two processes: readings in turn, left as JSON."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    keep_freed_pages()  # as a worker does; for both
    steps = {"ours": ours(features, width), "plain": plain(features, width)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for reading in range(pairs + 2):
        for name in sorted(steps, reverse=bool(reading % 2)):
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(BLOCK):
                steps[name]()
            used = (time.perf_counter() - wall) / BLOCK, (time.process_time() - cpu) / BLOCK
            if reading > 1:  # the first ones warm up
                found[name].append(used)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def measure_steps() -> list[Measure]:
    """Part B."""
    measures = []
    for name, (features, width, pairs) in NETS.items():
        with TemporaryDirectory() as folder:
            words = [
                sys.executable,
                __file__,
                "--work",
                *map(str, (features, width, pairs)),
                folder,
            ]
            both = [subprocess.Popen([*words, str(rank)]) for rank in range(2)]
            assert [each.wait() for each in both] == [0, 0]
            found = [json.loads(Path(folder, f"{r}.json").read_text()) for r in (0, 1)]
        times = {k: np.asarray([f[k] for f in found]) for k in ("ours", "plain")}  # [2, n, 2]
        for position, kind in ((0, "wall"), (1, "CPU")):
            mine, theirs = (times[k][:, :, position].mean(axis=0) for k in ("ours", "plain"))
            goal = {"at_most": 3.0} if kind == "CPU" and name.startswith("large") else {}
            more = 100 * (mine - theirs) / median(theirs)
            measures += [
                Measure(
                    part="B", name=f"{name}, plain DDP, {kind} ms a step", values=list(1e3 * theirs)
                ),
                Measure(part="B", name=f"{name}, ours, {kind} ms a step", values=list(1e3 * mine)),
                Measure(
                    part="B",
                    name=f"{name}, more {kind} time than plain DDP, %",
                    values=list(more),
                    note=f"median of {pairs} readings of {BLOCK} steps each, in turn",
                    **goal,
                ),
                Measure(
                    part="B",
                    name=f"{name}, {kind} ms more a step",
                    values=[float(median(1e3 * (mine - theirs)))],
                ),
            ]
    return measures


# --- A: metrics and watchdog ---------------------------------------------------------------------


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of some processes, in steps of 10 ms."""
    total = 0.0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure_metrics(turns: int = 6, window_s: float = 10.0) -> list[Measure]:
    """Part A."""
    from raysb.cluster import connected
    from raysb.history.ring import LossRing
    from raysb.report.records import MetricsWriter
    from raysb.scoring.ledger import Ledger
    from raysb.training.loop import with_scores
    from raysb.watchdog import watched

    line = {"kind": "train", "line": 0, "step": 1, "epoch": 0} | {f"x{i}": 0.5 for i in range(20)}
    with connected("local") as ray, TemporaryDirectory() as folder:
        from raysb.board import Board
        from raysb.ray_engine import watching
        from raysb.scoring.ledger_actor import LedgerClient

        board, ledger = Board.start(), LedgerClient.start(Ledger(ring=LossRing(1024)))
        stream = SimpleNamespace(board=board)
        pids = [
            os.getpid(),
            *(
                ray.get(a.__ray_call__.remote(lambda s: os.getpid()))
                for a in (board._actor, ledger._actor)
            ),
        ]
        writer = MetricsWriter(Path(folder) / "metrics.jsonl")
        recorder: Any = lambda each: writer.write(each)  # noqa: E731
        used: dict[bool, list[float]] = {True: [], False: []}
        held: list[float] = []
        for turn in range(2 * turns):
            on = bool(turn % 2)
            before, until = cpu_seconds(pids), time.monotonic() + window_s
            if on:
                with (
                    watching(stream, "log", recorder),
                    watched(
                        ledger.progress, limit_s=600.0, tell=print, stacks=Path(folder) / "stacks"
                    ),
                ):
                    while time.monotonic() < until:
                        start = time.perf_counter()
                        board.append("log", with_scores(line, ledger.progress()))
                        held.append(1e3 * (time.perf_counter() - start))
                        time.sleep(1.0)
            else:
                time.sleep(window_s)
            used[on].append((cpu_seconds(pids) - before) / window_s)
        writer.close()
    more = [100 * (a - b) for a, b in zip(used[True], used[False], strict=True)]
    return [
        Measure(
            part="A",
            name="without: CPU of driver, ledger and board, % of a core",
            values=[100 * each for each in used[False]],
        ),
        Measure(
            part="A",
            name="metrics and watchdog: CPU more, % of a core",
            values=more,
            note=f"{turns} times {window_s:g} s of each, in turn",
        ),
        Measure(part="A", name="a line holds up training, ms", values=held),
        Measure(
            part="A",
            name="that is, % of a second with a line",
            at_most=1.0,
            values=[each / 10 for each in held],
            note="a line a second at most",
        ),
    ]


# --- C: starts -----------------------------------------------------------------------------------


def measure_starts(turns: int = 3) -> list[Measure]:
    """Part C."""
    found: dict[str, list[float]] = {"a new run": [], "--resume": []}
    inside: dict[str, list[float]] = {"a new run": [], "--resume": []}
    for _ in range(turns):
        with TemporaryDirectory() as folder:
            run = f"{folder}/run"
            words = ["--data.train", "digits", "--model.name", "mlp", "--train.max_steps", "5"]
            words += ["--train.use_gpu", "false", "--run.loggers", "[]", "--run.dir", run]
            for name, given in (
                ("a new run", words),
                ("--resume", ["--resume", run, "--train.max_steps", "10"]),
            ):
                said = subprocess.run(
                    [sys.executable, "-m", "raysb", "train", *given, "--address", "local"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                phases = re.search(r"start: (.*)", said)
                seconds = re.findall(r"([\w ]+?) ([\d.]+) s", phases[1] if phases else "")
                found[name].append(sum(float(s) for _, s in seconds))
                inside[name].append(float(seconds[-1][1]))
                time.sleep(3)
    return [
        *(Measure(part="C", name=f"{k}: s to the first batch", values=v) for k, v in found.items()),
        *(
            Measure(part="C", name=f"{k}: s from workers to the first batch", values=v)
            for k, v in inside.items()
        ),
    ]


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="A,B,C")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "records")
    options = parser.parse_args()
    if options.work:
        features, width, pairs, folder, rank = options.work
        work(int(rank), int(features), int(width), int(pairs), folder)
        return
    parts = {"A": measure_metrics, "B": measure_steps, "C": measure_starts}
    for name in options.parts.split(","):
        about = context(sys.argv[1:], "benchmarks/training_cost.py")
        measures = parts[name]()
        for each in measures:
            print("  ".join(each.cells()), flush=True)
        write(options.out, "training_cost", measures, about, quick=False)


if __name__ == "__main__":
    main()
