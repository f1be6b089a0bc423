"""Parts a, b and c: the trainer's speed, its waiting, and a whole epoch, against plain loops.

All arms of a net alternate inside one Ray Train worker, which starts the one-process arms as fresh
processes: whatever else the machine does, it does to all of them.
"""

import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.measures import Measure, failed
from bench.one_process import bare_rate, in_fresh_process
from bench.problem import BATCH, RAY_POOLS, Problem, Trace, learner
from bench.processes import spent, usage
from bench.rays import run_in_workers
from raysb.cluster import connected
from raysb.selection import SelectiveBackprop, Uniform
from raysb.training.memory import keep_freed_pages
from raysb.training.stream import get_stream

LEAST_ROWS, MOST_ROWS = 10_000, 60_000
LEAST_POOLS, IN_FLIGHT = 30, 5  # of a stream that is timed; those at its end are not
CORES = os.cpu_count() or 1
Report = Callable[[Measure], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to measure.

    Args:
        repeats: Of every arm.
        seconds: Of an arm, about.
    """

    repeats: int
    seconds: float


def measure(parts: str, problems: list[Problem], effort: Effort, report: Report) -> None:
    """Run the parts among `abc` for every net."""
    with connected():
        for problem in problems:
            try:
                arms = _run(parts, problem, effort)
            except Exception as error:
                for part in parts:
                    report(failed(part, problem.name, error))
                continue
            for line in _lines(parts, problem, arms):
                report(line)


def _run(parts: str, problem: Problem, effort: Effort) -> dict[str, Any]:
    rate = in_fresh_process("bare_rate", problem, seconds=1.0)["rate"]
    count = int(min(max(rate * effort.seconds, LEAST_ROWS), problem.count))
    sized = Problem(**{**vars(problem), "count": count})
    streams = [
        sized.stream(Uniform(), "uniform"),
        *(
            sized.stream(SelectiveBackprop(), _selective(n), batch_size=n, num_cpus=0.5)
            for n in RAY_POOLS
        ),
    ]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        config = {
            "parts": parts,
            "problem": sized,
            "effort": effort,
            "epochs": max(2, math.ceil(rate * effort.seconds / count)),
            "out": file.name,
        }
        run_in_workers(_arms, config, streams)
        answers: dict[str, Any] = json.loads(Path(file.name).read_text())
    return answers


def _selective(pool: int) -> str:
    """Name of the stream whose pools have so many rows, and of what is noted of it."""
    return f"pools of {pool}"


# --- in the worker ---------------------------------------------------------------------------


def _arms(config: dict[str, Any]) -> None:
    """All arms in turn; the answers go to a file, since both processes are on one machine."""
    problem, effort = config["problem"], config["effort"]
    found: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        found.setdefault(name, []).append(value)

    # default malloc first: within a process the other cannot be undone
    if "a" in config["parts"]:
        for _ in range(effort.repeats):
            main = in_fresh_process("bare_rate", problem, seconds=effort.seconds)
            note("default malloc", bare_rate(problem, effort.seconds)["rate"] / main["rate"])
    keep_freed_pages()
    pools = _best_pools(problem, effort) if "c" in config["parts"] else {}
    for _ in range(effort.repeats):
        if "a" in config["parts"]:
            _speed(config, note)
        if "b" in config["parts"] or "c" in config["parts"]:
            _epoch(problem, pools, note)
        if pools:
            note("capacity", _capacity(problem, effort.seconds / 2))
    for threads, best in pools.items():
        note("best pool", [threads, best])
    Path(config["out"]).write_text(json.dumps(found))


def _speed(config: dict[str, Any], note: Callable[[str, Any], None]) -> None:
    problem, seconds = config["problem"], config["effort"].seconds
    main = in_fresh_process("bare_rate", problem, seconds=seconds)
    thread = bare_rate(problem, seconds)
    rows = problem.count * config["epochs"]
    trace = Trace(rows // 10, rows - rows // 20, time.process_time)
    _train("uniform", config["epochs"], trace, "num_backpropped")
    rate, cpu = trace.rows / trace.seconds, (trace.seen[1] - trace.seen[0]) / trace.rows
    note("bare rows/s", main["rate"])
    note("kept pages", thread["rate"] / main["rate"])
    note("stream rows/s", rate)
    note("stream", rate / main["rate"])
    note("stream in its thread", rate / thread["rate"])
    note("stream cpu", main["cpu"] / cpu)
    note("uniform waits", trace.waited)


def _epoch(problem: Problem, pools: dict[int, Any], note: Callable[[str, Any], None]) -> None:
    local = {
        threads: in_fresh_process("local_epoch", problem, threads=threads, pool=best["pool"])
        for threads, best in pools.items()
    }
    for threads, answer in local.items():
        note(f"local rows/s {threads}", 1 / answer["seconds_per_row"])
        note(f"local kept {threads}", answer["kept"])
        note(f"local cpu {threads}", 1e6 * answer["cpu"])
    for pool in RAY_POOLS:
        note(_selective(pool), _epoch_on_ray(problem, pool, local))


def _epoch_on_ray(problem: Problem, pool: int, local: dict[int, Any]) -> dict[str, Any]:
    name, epochs = _selective(pool), math.ceil(LEAST_POOLS * pool / problem.count)
    rows = problem.count * epochs
    # the clock stops while there is still something to score: after that the trainer is alone
    trace = Trace(rows // 5, rows - max(rows // 7, IN_FLIGHT * pool), usage)
    stream = _train(name, epochs, trace, "num_scored")
    seconds_per_row = trace.seconds / trace.rows
    cpu = spent(*trace.seen)
    return {
        "waits": trace.waited,
        "rows/s": 1 / seconds_per_row,
        "kept": stream.num_backpropped / stream.num_scored,
        "age": stream.mean_age(),
        "scorer busy": cpu["scorer"] / trace.seconds,
        "cpu": {role: 1e6 * seconds / trace.rows for role, seconds in cpu.items()},
        "cores": sum(cpu.values()) / trace.seconds,
        **{f"epoch {n}": seconds_per_row / each["seconds_per_row"] for n, each in local.items()},
    }


def _capacity(problem: Problem, seconds: float) -> float:
    """Rows/s of as many bare loops as there are cores, over so many times one alone."""
    alone = in_fresh_process("bare_rate", problem, seconds=seconds)["rate"]
    with ThreadPoolExecutor(CORES) as threads:
        call = partial(in_fresh_process, "bare_rate", problem, seconds=seconds)
        together = [f.result()["rate"] for f in [threads.submit(call) for _ in range(CORES)]]
    return float(sum(together) / (CORES * alone))


def _best_pools(problem: Problem, effort: Effort) -> dict[int, Any]:
    rows = min(problem.count, LEAST_ROWS)
    return {
        threads: in_fresh_process(
            "best_pool", problem, threads=threads, rows=rows, passes=min(effort.repeats, 2)
        )
        for threads in sorted({1, CORES})
    }


def _train(name: str, epochs: int, trace: Trace, position: str) -> Any:
    stream = get_stream(name)
    student = learner(stream.task, stream.spec.seed)
    for batch in stream.iter_batches(batch_size=BATCH, epochs=epochs, model=student.model):
        student.step(stream, batch, 1.0)
        trace.note(getattr(stream, position), stream.wait_seconds)
    return stream


# --- lines of the table ------------------------------------------------------------------------


def _lines(parts: str, problem: Problem, arms: dict[str, Any]) -> Iterator[Measure]:
    makers = {"a": _speed_lines, "b": _wait_lines, "c": _epoch_lines}
    for part in parts:
        for line in makers[part](problem.name, arms):
            yield Measure(**{**vars(line), "part": part})


def _speed_lines(name: str, arms: dict[str, Any]) -> Iterator[Measure]:
    def line(text: str, key: str, **more: Any) -> Measure:
        return Measure(part="a", name=f"{name}: {text}", values=arms[key], **more)

    waits = f"the trainer waits {max(arms['uniform waits']):.0%} of its time"
    yield line("Uniform stream / bare loop", "stream", at_least=0.95, note=waits)
    yield line("the same / bare loop in the same thread", "stream in its thread")
    yield line("rows per CPU second of the trainer's process / bare loop's", "stream cpu")
    yield line("bare loop in a Ray worker / main thread, pages kept", "kept pages")
    yield line("bare loop in a Ray worker / main thread, default malloc", "default malloc")
    yield line("bare loop, rows/s", "bare rows/s")
    yield line("Uniform stream, rows/s", "stream rows/s")


def _wait_lines(name: str, arms: dict[str, Any]) -> Iterator[Measure]:
    best = _best(arms, "waits")
    for pool in RAY_POOLS:
        found = _columns(arms[_selective(pool)])
        busy = max(found["scorer busy"])
        enough = "scorers suffice" if busy < 0.9 else "one scorer does not suffice here"
        age = max(found["age"])
        yield Measure(
            part="b",
            name=f"{name}: share of time the trainer waits, {_selective(pool)}",
            values=found["waits"],
            at_most=0.05 if pool == best else None,
            note=f"the scorer takes {busy:.0%} of a core: {enough}; age {age:.1f} steps",
        )


def _epoch_lines(name: str, arms: dict[str, Any]) -> Iterator[Measure]:
    pools = dict(arms["best pool"])
    for threads, goal in zip(sorted(pools), (0.60, 0.80), strict=False):
        best_here, best = _best(arms, f"epoch {threads}"), pools[threads]
        for pool in RAY_POOLS:
            yield Measure(
                part="c",
                name=f"{name}: epoch on Ray, {_selective(pool)} / in one process, "
                f"{_threads(threads)}",
                values=_columns(arms[_selective(pool)])[f"epoch {threads}"],
                at_most=goal if pool == best_here else None,
                note=f"one process: its best of 64 to 512, {best['pool']}; Ray: data.num_readers=0",
            )
        rates, cpu = arms[f"local rows/s {threads}"], arms[f"local cpu {threads}"]
        text = f"{name}: one process, {_threads(threads)}"
        yield Measure(part="c", name=f"{text}, rows scored/s", values=rates)
        yield Measure(part="c", name=f"{text}, CPU us a scored row", values=cpu)
    for pool in RAY_POOLS:
        yield from _ray_lines(name, _selective(pool), arms)
    yield Measure(
        part="c",
        name=f"{name}: {CORES} bare loops at once / {CORES} x one alone",
        values=arms["capacity"],
        note="what the cores have to give when all are busy",
    )


def _ray_lines(name: str, pools: str, arms: dict[str, Any]) -> Iterator[Measure]:
    """Where an epoch's time goes on Ray."""
    found = _columns(arms[pools])
    kept = f"kept {max(found['kept']):.3f}, one process {max(arms['local kept 1']):.3f}"
    text = f"{name}: Ray, {pools}"
    yield Measure(part="c", name=f"{text}, rows scored/s", values=found["rows/s"], note=kept)
    total = [sum(one.values()) for one in found["cpu"]]
    note = f"{max(found['cores']):.2f} cores in use"
    yield Measure(part="c", name=f"{text}, CPU us a scored row", values=total, note=note)
    roles = sorted({role for one in found["cpu"] for role in one})
    for role in sorted(roles, key=lambda r: -max(one.get(r, 0.0) for one in found["cpu"])):
        parts = [one.get(role, 0.0) for one in found["cpu"]]
        if max(parts) >= 0.01 * max(total):
            yield Measure(part="c", name=f"{text}: of it {role}", values=parts)


def _columns(repeats: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What each repeat gave, by quantity."""
    return {key: [each[key] for each in repeats] for key in repeats[0]}


def _best(arms: dict[str, Any], key: str) -> int:
    """The pools on Ray with the least of something: what the goal is about."""
    medians = {n: statistics.median(_columns(arms[_selective(n)])[key]) for n in RAY_POOLS}
    return min(medians, key=medians.__getitem__)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads (all cores)"
