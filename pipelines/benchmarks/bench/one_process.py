"""The arms without Ray: a bare PyTorch loop, and Selective-Backprop in one process.

Each runs in the thread of whoever calls it; `in_fresh_process` makes that the main thread of a
process of its own, whatever process asks.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bench.problem import BATCH, Problem, Trace, learner
from raysb.local import LocalStream
from raysb.selection import SelectiveBackprop, Uniform
from raysb.training.memory import keep_freed_pages

SCRIPT = Path(__file__).parents[1] / "throughput.py"
WARM_UP_STEPS = 20
POOLS = (64, 128, 256, 512)


def bare_rate(problem: Problem, seconds: float) -> dict[str, float]:
    """A plain loop over tensors in memory: rows per second, and CPU seconds per row.

    Net, batch, optimizer, normalisation and memory format are those of the stream.
    """
    spec = problem.stream(Uniform()).spec
    rows = {name: torch.from_numpy(column) for name, column in problem.rows().items()}
    model_and_optimizer = learner(spec.task, spec.seed)
    model, optimizer = model_and_optimizer.model, model_and_optimizer.optimizer
    count, steps, start, used = len(rows["label"]), 0, 0.0, 0.0
    while True:
        for chosen in torch.randperm(count).split(BATCH):  # type: ignore[no-untyped-call]
            if len(chosen) < BATCH:
                continue
            if steps == WARM_UP_STEPS:
                start, used = time.perf_counter(), time.process_time()
            logits = spec.task.forward(model, {"image": rows["image"][chosen]})
            loss = F.cross_entropy(logits, rows["label"][chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
            gone = time.perf_counter() - start
            if steps > WARM_UP_STEPS and gone > seconds:
                done = (steps - WARM_UP_STEPS) * BATCH
                return {"rate": done / gone, "cpu": (time.process_time() - used) / done}


def local_epoch(problem: Problem, pool: int, rows: int | None = None) -> dict[str, float]:
    """One epoch of Selective-Backprop in this thread; seconds and CPU seconds per row scored.

    With freed pages kept, as scorers and workers have it: else malloc would decide the comparison.
    """
    keep_freed_pages()
    if rows is not None:
        problem = Problem(**{**vars(problem), "count": min(rows, problem.count)})
    spec = problem.stream(SelectiveBackprop(), batch_size=pool).spec
    stream = LocalStream(spec)
    student = learner(spec.task, spec.seed)
    count = spec.source.num_rows
    trace = Trace(count // 5, count - count // 10, time.process_time)
    for batch in stream.iter_batches(batch_size=BATCH, epochs=1, model=student.model):
        student.step(stream, batch, 1.0)
        trace.note(stream.num_scored, stream.wait_seconds)
    kept = stream.num_backpropped / stream.num_scored
    cpu = (trace.seen[1] - trace.seen[0]) / trace.rows
    return {"seconds_per_row": trace.seconds / trace.rows, "kept": kept, "cpu": cpu}


def best_pool(problem: Problem, rows: int, passes: int) -> dict[str, Any]:
    """The fastest scoring batch, and seconds per row of each; the passes alternate."""
    best = dict.fromkeys(POOLS, float("inf"))
    for _ in range(passes):
        for pool in POOLS:
            best[pool] = min(best[pool], local_epoch(problem, pool, rows)["seconds_per_row"])
    return {"pool": min(best, key=best.__getitem__), "seconds_per_row": list(best.values())}


def in_fresh_process(call: str, problem: Problem, *, threads: int = 1, **arguments: Any) -> Any:
    """Call a function of this module in the main thread of a new process."""
    order = {"call": call, "problem": vars(problem), "threads": threads, "arguments": arguments}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--arm", json.dumps(order)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(f"{call} in a fresh process: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(order: dict[str, Any]) -> None:
    """In the fresh process: do what was asked, and print the answer as JSON."""
    torch.set_num_threads(order["threads"])
    problem = Problem(**{**order["problem"], "shape": tuple(order["problem"]["shape"])})
    calls: list[Any] = [bare_rate, local_epoch, best_pool]
    call = next(each for each in calls if each.__name__ == order["call"])
    print(json.dumps(call(problem, **order["arguments"])))
