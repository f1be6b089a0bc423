"""Ctrl-C and SIGTERM end a run as they promise: once in order, twice at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysb import load_model, read_metrics
from raysb.config import load
from raysb.interrupt import Interrupted
from raysb.run import train
from raysb.training.audit import read_audit

LIMIT_S = 90.0
DIGITS = ("--data.train", "digits", "--model.name", "mlp", "--train.epochs", "60000")
LOCAL = (*DIGITS, "--engine", "local", "--train.use_gpu", "false")
RAY = (*DIGITS, "--scoring.num_cpus", "0.1", "--train.num_cpus", "0.5", "--train.num_workers", "2")


class Command:
    """`raysb train` in a process of its own, and whatever processes it starts.

    Args:
        folder: Where it runs; the run directory is `folder/run`.
        flags: Its settings.
    """

    def __init__(self, folder: Path, *flags: str) -> None:
        self.run = folder / "run"
        self._mark = f"RAYSB_TEST={uuid.uuid4()}"
        name, value = self._mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raysb", "train", "--run.dir", str(self.run), *flags],
            cwd=folder,
            env={**os.environ, name: value, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell without job control has its background jobs ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def train(self, steps: int) -> None:
        """Return when it has trained for so many steps."""

        def trained() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return steps_of(self.run) >= steps

        wait_until(trained)

    def wait(self) -> tuple[int, str]:
        """The exit code and what was said."""
        said, _ = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, said

    def left(self) -> list[str]:
        """Command lines of the processes that it left behind."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self._mark in (folder / "environ").read_text():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except (OSError, UnicodeDecodeError):
                continue
        return found


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts commands, and ends those that a failed test leaves."""
    started: list[Command] = []

    def start(*flags: str) -> Command:
        started.append(Command(tmp_path, *flags))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def steps_of(run: Path) -> int:
    """Steps that the metrics of a run know of."""
    metrics = run / "metrics.jsonl"
    return max([line["step"] for line in read_metrics(metrics)] or [0]) if metrics.exists() else 0


def wait_until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def checkpoint_of(run: Path) -> Path:
    return max(path for path in run.glob("checkpoint_*") if path.is_dir())


def check_complete(run: Path) -> dict[str, Any]:
    """A run that ended in order has all its files, and they agree; returns its last line."""
    end = read_metrics(run)[-1]
    checkpoint = checkpoint_of(run)
    state = json.loads((checkpoint / "stream.json").read_text())["stream"]["counters"]
    assert (end["kind"], end["stopped_by"]) == ("end", "interrupted")
    assert 0 < end["step"] == state["num_steps"]
    assert end["num_backpropped"] == state["num_backpropped"]
    weights = (run / "model.safetensors").read_bytes()
    assert weights == (checkpoint / "model.safetensors").read_bytes()
    assert torch.isfinite(load_model(run)(torch.zeros(1, 8, 8, 1))).all()
    assert "note:    interrupted" in (run / "run.log").read_text()
    return end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_local_run_with_all_that_it_promises(command, number) -> None:
    running = command(*LOCAL)
    running.train(1)
    running.process.send_signal(number)
    code, said = running.wait()
    assert code == 130, said
    assert "Traceback" not in said
    assert "note:    interrupted" in said
    check_complete(running.run)


def test_two_signals_end_a_local_run_at_once(command) -> None:
    running = command(*LOCAL)
    running.train(1)
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGINT)
    code, said = running.wait()
    assert code == 130, said
    assert "Traceback" not in said
    assert running.left() == []


class Pressing(threading.Thread):
    """Presses Ctrl-C when a run in this process has trained for some steps, as often as asked."""

    def __init__(self, directory: Path, times: int) -> None:
        super().__init__(daemon=True)
        self._directory, self._times = directory, times
        self.start()

    def run(self) -> None:
        wait_until(lambda: steps_of(self._directory) >= 5)
        for _ in range(self._times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)


@pytest.mark.ray
def test_one_signal_ends_all_workers_on_ray_at_the_same_step(ray_cluster, tmp_path) -> None:
    run = tmp_path / "run"
    config = load(None, ["--run.dir", str(run), *RAY, "--train.audit", "true"])
    Pressing(run, times=1)
    with pytest.raises(Interrupted) as caught:
        train(config)
    end = check_complete(run)
    assert caught.value.metrics["step"] == end["step"]
    audit = read_audit(run / "audit")
    per_step = np.unique(audit["step"].to_numpy(), return_counts=True)
    np.testing.assert_array_equal(per_step[0], np.arange(1, end["step"] + 1))
    assert set(per_step[1]) == {2 * config.train.batch_size}  # both workers in every step


@pytest.mark.ray
@pytest.mark.slow
def test_two_signals_end_the_workers_on_a_cluster_that_goes_on(ray_cluster, tmp_path) -> None:
    import ray

    before = ray.available_resources().get("CPU")
    Pressing(tmp_path / "run", times=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(load(None, ["--run.dir", str(tmp_path / "run"), *RAY]))
    assert not isinstance(caught.value, Interrupted)
    del caught
    wait_until(lambda: ray.available_resources().get("CPU") == before)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_command_on_ray_leaves_no_process_behind(command, times) -> None:
    from raysb.cluster import running_clusters

    if running_clusters():
        pytest.skip("a second cluster on one machine would take the first one's workers")
    running = command(*RAY)
    running.train(5)
    for _ in range(times):
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    code, said = running.wait()
    assert code == 130, said
    if times == 1:
        check_complete(running.run)
    wait_until(lambda: running.left() == [])
