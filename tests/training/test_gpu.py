"""What a worker says of its GPU."""

import asyncio
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raysb import board
from raysb.board import Board, BoardState
from raysb.training import worker
from raysb.training.gpu import (
    GPU_TOTAL,
    GPU_USE,
    GPU_USED,
    OtherGpus,
    gpu_metrics,
    keep_telling,
    tell_board,
    told_of,
)
from raysb.training.worker import Worker


def test_a_cpu_has_no_figures_of_a_gpu() -> None:
    assert gpu_metrics(torch.device("cpu")) == {}


def test_memory_is_that_of_all_processes_and_use_is_left_out_without_nvml(monkeypatch) -> None:
    """`torch.cuda` stands in for a GPU: 30 of 80 bytes are free."""

    def no_nvml(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30, 80))
    monkeypatch.setattr(torch.cuda, "utilization", no_nvml)
    device = torch.device("cuda", 0)
    assert gpu_metrics(device) == {GPU_USED: 50.0, GPU_TOTAL: 80.0}
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    assert gpu_metrics(device)[GPU_USE] == pytest.approx(0.87)


@pytest.mark.gpu
def test_a_gpu_says_its_memory() -> None:
    figures = gpu_metrics(torch.device("cuda", 0))
    total = torch.cuda.get_device_properties(0).total_memory
    assert 0 < figures[GPU_USED] <= figures[GPU_TOTAL]
    assert figures[GPU_TOTAL] == pytest.approx(total, rel=0.05)


def test_the_newest_figures_of_every_process_are_metrics_under_its_own_name() -> None:
    now = [0.0]
    gpus = OtherGpus(lambda: now[0])
    metrics = gpus.update(
        [
            ("scorer", "a1f", {GPU_USED: 1.0, GPU_TOTAL: 8.0}),
            ("worker", "2", {GPU_USED: 2.0}),
            ("worker", "1", {GPU_USED: 3.0, GPU_USE: 0.5}),
            ("scorer", "77e", {GPU_USED: 4.0}),
            ("scorer", "a1f", {GPU_USED: 5.0, GPU_TOTAL: 8.0}),
        ]
    )
    assert metrics == {
        "gpu/worker1/memory_used": 3.0,
        "gpu/worker1/utilization": 0.5,
        "gpu/worker2/memory_used": 2.0,
        "gpu/scorer0/memory_used": 5.0,
        "gpu/scorer0/memory_total": 8.0,
        "gpu/scorer1/memory_used": 4.0,
    }
    assert next(iter(metrics)) == "gpu/worker1/memory_used"
    now[0] = 10.0
    assert len(gpus.update([("scorer", "77e", {GPU_USED: 6.0})])) == 6, "the others still count"
    now[0] = 20.0
    assert gpus.update([]) == {"gpu/scorer1/memory_used": 6.0}, "who is gone has no figures"


def test_a_process_tells_what_a_reader_says_until_it_is_over() -> None:
    """A reader function stands in for a GPU."""
    told, twice = [], threading.Event()
    count = iter(range(10**9))

    def tell(what):
        told.append(what)
        if len(told) >= 3:
            twice.set()

    over = keep_telling(
        tell,
        "worker",
        "1",
        torch.device("cpu"),
        read=lambda device: {GPU_USED: float(next(count))},
        every_s=0.001,
    )
    assert twice.wait(20)
    over.set()
    kinds, names, figures = zip(*told, strict=True)
    assert set(kinds) == {"worker"}
    assert set(names) == {"1"}
    read = [each[GPU_USED] for each in figures]
    assert read == sorted(set(read))


def test_on_a_cpu_nothing_is_told_and_no_thread_starts() -> None:
    before = threading.active_count()
    assert keep_telling(lambda told: None, "worker", "1", torch.device("cpu")) is None
    assert threading.active_count() == before


class Here:
    """The actor behind a board, in this process."""

    def __init__(self) -> None:
        self.state = BoardState()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.state, name)
        return SimpleNamespace(remote=lambda *args: asyncio.run(call(*args)))


@pytest.fixture
def here(monkeypatch) -> Here:
    monkeypatch.setattr(board, "step_back", lambda: None)
    monkeypatch.setattr(board.ray, "get", lambda answer: answer)
    return Here()


def test_the_board_does_not_grow_where_nobody_reads_what_is_told(here) -> None:
    """It kept every line of every scorer to the end of a loop of one's own."""
    told, enough = Board(here), threading.Event()
    count = iter(range(10**9))

    def read(device: torch.device) -> dict[str, float]:
        number = next(count)
        if number == 200:
            enough.set()
        return {GPU_USED: float(number)}

    def tell(what: Any) -> None:
        if not enough.is_set():
            tell_board(told, "run", what)

    over = keep_telling(tell, "scorer", "a1f", torch.device("cpu"), read=read, every_s=0.0)
    assert enough.wait(60)
    over.set()
    held = {name: value for name, value in vars(here.state).items() if name != "_changed"}
    assert sum(map(len, held.values())) == 1
    assert told.take(told_of("run")) == [("scorer", "a1f", {GPU_USED: 199.0})]


def test_what_is_told_is_read_once_the_newest_of_each_process_of_the_stream(here) -> None:
    of_run = partial(tell_board, Board(here), "run")
    tell_board(Board(here), "run-2", ("scorer", "a1f", {GPU_USED: 9.0}))
    Board(here).put("gpu", 4, "another value")
    for used, name in ((1.0, "77e"), (2.0, "a1f"), (3.0, "77e")):
        of_run(("scorer", name, {GPU_USED: used}))
    newest = [("scorer", "77e", {GPU_USED: 3.0}), ("scorer", "a1f", {GPU_USED: 2.0})]
    assert Board(here).take(told_of("run")) == newest
    assert Board(here).take(told_of("run")) == []
    of_run(("scorer", "77e", {GPU_USED: 4.0}))
    assert Board(here).take(told_of("run")) == [("scorer", "77e", {GPU_USED: 4.0})]
    assert Board(here).version("gpu") == 4
    assert len(Board(here).take(told_of("run-2"))) == 1


def test_a_line_of_metrics_has_what_the_other_processes_told(here, monkeypatch) -> None:
    monkeypatch.setattr(worker, "with_scores", lambda line, progress: line)
    writer: Any = Worker.__new__(Worker)
    stream = SimpleNamespace(name="run", board=Board(here))
    writer._gpus, writer._job = OtherGpus(), SimpleNamespace(log="metrics/run", stream=stream)
    writer._stream = SimpleNamespace(progress=lambda *_: {})
    for used in (1.0, 2.0):
        tell_board(Board(here), "run", ("worker", "1", {GPU_USED: used}))
    line = {"step": 5, "epoch": 1}
    writer._record(line)
    assert stream.board.drain("metrics/run") == [{**line, "gpu/worker1/memory_used": 2.0}]
