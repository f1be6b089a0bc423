"""`raysb train` in a process of its own, watched from outside by the files that it writes."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "RAYSB_BENCH_RUN"  # in the environment of a run's processes: its folder


@dataclass
class Run:
    """A run of the command, and what becomes of it.

    Args:
        folder: For the run's directory and what the command says.
        address: Words that name a Ray cluster; by default one of its own beside any that runs.
        environment: Of the command and of the processes that it starts, beside this process's.
        process: The command.
    """

    folder: Path
    address: tuple[str, ...] = field(default=("--address", "local"), kw_only=True)
    environment: dict[str, str] = field(default_factory=dict, kw_only=True)
    process: Any = field(default=None, kw_only=True)

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.folder / "run"

    def start(self, *words: str) -> None:
        """Begin it, or go on with it: `raysb train` and these words."""
        inherited = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        own = {MARK: str(self.folder), "OMP_NUM_THREADS": "1"}
        with open(self.folder / "out.txt", "a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raysb", "train", *words, *self.address],
                env=inherited | own | self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def workers(self) -> dict[int, int]:
        """How many workers have noted each step that is kept; needs `train.audit`."""
        files = self.directory.glob("audit/step-*.parquet")
        return Counter(int(path.name.split("-")[1]) for path in files)

    def step(self, workers: int = 2) -> int:
        """The newest step that so many workers have noted."""
        return max((step for step, n in self.workers().items() if n == workers), default=0)

    def reach(self, step: int, limit_s: float = 240.0) -> float:
        """Wait until a step is done; returns the seconds."""
        since = time.monotonic()
        while self.step() < step and self.process.poll() is None:
            if time.monotonic() - since > limit_s:
                raise TimeoutError(f"step {step} was not reached: {self.output()[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - since

    def wait(self, what: str, condition: Callable[[], bool], limit_s: float = 300.0) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: The command ended before, or it took too long.
        """
        until = time.monotonic() + limit_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                raise TimeoutError(f"{what}: {self.last_words()}")
            time.sleep(0.05)

    def lines(self) -> list[dict[str, Any]]:
        """All lines of its metrics, also those that a restart has undone."""
        path = self.directory / "metrics.jsonl"
        return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []

    def resumed_at(self) -> list[int]:
        """The steps from which it went on."""
        return [line["step"] for line in self.lines() if line["kind"] == "resume"]

    def end(self, limit_s: float = 400.0) -> int:
        """Wait for the end; returns the exit code."""
        return int(self.process.wait(timeout=limit_s))

    def output(self) -> str:
        """What the command said."""
        return (self.folder / "out.txt").read_text()

    def last_words(self) -> str:
        """The end of it, on one line."""
        return " ".join(self.output()[-1500:].split())
