"""What every worker's and scorer's GPU says of itself, for the lines of metrics.

Worker 0 reads its own with each line. The others tell theirs from a thread once a second, so that
neither a step nor a pool waits, and worker 0 adds the newest of each to its lines. The board holds
only the newest: in a loop of one's own there is no worker 0 that reads them.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    from raysb.board import Board

Figures: TypeAlias = Mapping[str, float]
Told: TypeAlias = tuple[str, str, Figures]  # kind of process, its own name, its figures

PREFIX = "gpu/"
GPU_USED, GPU_TOTAL, GPU_USE = "gpu/memory_used", "gpu/memory_total", "gpu/utilization"
TELL_EVERY_S = 1.0
FORGET_AFTER_S = 15.0  # of a process that tells nothing any more


def gpu_metrics(device: torch.device) -> dict[str, float]:
    """Memory in bytes, of all processes on the GPU, and its use in [0, 1]; nothing on a CPU.

    The use is what NVML says of the last second or less, where torch finds NVML's Python package
    (`nvidia-ml-py`); without it the key is left out.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {GPU_USED: float(total - free), GPU_TOTAL: float(total), **_use(device)}


def _use(device: torch.device) -> dict[str, float]:
    try:
        return {GPU_USE: torch.cuda.utilization(device) / 100}
    except Exception:  # no package, or an NVML that refuses: a figure less, never a run less
        return {}


def keep_telling(
    tell: Callable[[Told], None],
    kind: str,
    name: str,
    device: torch.device,
    *,
    read: Callable[[torch.device], Figures] = gpu_metrics,
    every_s: float = TELL_EVERY_S,
) -> threading.Event | None:
    """Tell a process's figures again and again, from a thread, until the event is set.

    Args:
        tell: Takes what is told; called in the thread.
        kind: `worker` or `scorer`.
        name: Of the process, no other's of its kind: a worker's rank, say.
        device: Of the process.
        read: Gives the figures of a device.
        every_s: Time between two.

    Returns:
        What ends it; `None` where there is nothing to tell, and no thread.
    """
    if not read(device):
        return None
    over = threading.Event()

    def run() -> None:
        while True:
            tell((kind, name, read(device)))
            if over.wait(every_s):
                return

    threading.Thread(target=run, daemon=True).start()
    return over


class OtherGpus:
    """The newest figures of each process that tells some, as metrics.

    Keys are `gpu/<kind><number>/...`; processes are numbered as they come, workers by their rank.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: dict[tuple[str, str], tuple[float, Figures]] = {}
        self._numbers: dict[tuple[str, str], str] = {}

    def update(self, told: Iterable[Told]) -> dict[str, float]:
        """Take what was told since the last call; returns the metrics of all that still tell."""
        now = self._clock()
        for kind, name, figures in told:
            of_kind = sum(each == kind for each, _ in self._numbers)
            number = name if name.isdigit() else str(of_kind)
            self._numbers.setdefault((kind, name), number)
            self._newest[kind, name] = now, figures
        metrics: dict[str, float] = {}
        for (kind, name), (at, figures) in sorted(self._newest.items(), key=self._place):
            if now - at <= FORGET_AFTER_S:
                own = f"{PREFIX}{kind}{self._numbers[kind, name]}/"
                metrics |= {own + key.removeprefix(PREFIX): v for key, v in figures.items()}
        return metrics

    def _place(self, item: Any) -> tuple[bool, int]:
        kind, _ = key = item[0]
        return kind != "worker", int(self._numbers[key])


def told_of(stream: str) -> str:
    """Where on the board is what the processes of a stream told."""
    return f"gpu/{stream}/"


def tell_board(board: "Board", stream: str, told: Told) -> None:
    """Put what a process tells onto the board, in the place of what it told before."""
    kind, name, _ = told
    board.put(f"{told_of(stream)}{kind}/{name}", 0, told)
