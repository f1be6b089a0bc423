"""What a checkpoint goes on from is all there: every worker's losses, the metrics before it."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.ray


class Recorder:
    """A slow disk."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def __call__(self, line: Any) -> None:
        time.sleep(0.05)
        self.written.append(line["line"])

    def phase(self, name: str) -> None:
        """Ignore."""


def test_the_lines_before_a_checkpoint_are_written_when_it_is_committed(ray_cluster) -> None:
    """A driver that died a moment after it lost the lines of its last quarter of a second."""
    from raysb.board import Board
    from raysb.ray_engine import watching

    board, recorder = Board.start(), Recorder()
    with watching(SimpleNamespace(board=board), "log", recorder):
        for turn in range(1, 4):
            for line in range(5):
                board.append("log", {"kind": "train", "line": line})
            assert board.flush("log", 30.0)
            assert recorder.written == list(range(5)) * turn
    board.append("log", {"kind": "train", "line": 5})
    began = time.monotonic()
    assert not board.flush("log", 0.3)  # nobody writes: a checkpoint is worth more than the line
    assert time.monotonic() - began >= 0.3


def test_the_losses_of_all_workers_are_in_the_history_when_worker_0_reads_it(ray_cluster) -> None:
    """Worker 0 read it while others' losses were still under way. Its gathering is the barrier."""
    from raysb.history.shards import LossHistory
    from raysb.training.stream import RayStream

    history = LossHistory.start()
    worker = RayStream.__new__(RayStream)
    worker.num_steps, worker.oldest, worker._identity = 7, 0, {}
    worker.num_backpropped = worker.num_scored = worker.max_age = 0
    worker._loss_sum, worker._loss_rows = torch.zeros(()), 0
    worker._age_sum = worker._aged_rows = 0
    worker._trained = SimpleNamespace(steps=[])
    worker._limits = SimpleNamespace(lockstep=False)
    worker._history = history.of(1)
    worker._backward = []

    class Exchange:
        rank, seen = 1, None

        def gather_objects(self, mine: Any) -> list[Any]:
            if self.seen is None:  # from here on worker 0 may read
                self.seen = (len(worker._backward), len(worker._history._in_flight))
            return [mine]

    worker.exchange = Exchange()
    for step in range(3):
        worker.num_steps = step
        worker._record_backward(np.arange(4) + 4 * step, np.full(4, 0.5, np.float32))
    worker.state_dict()
    assert worker.exchange.seen == (0, 0)
    known = history.export()
    np.testing.assert_array_equal(known["id"], np.arange(12))
    np.testing.assert_array_equal(known["weights_step"], np.repeat([0, 1, 2], 4))  # each its own
