"""A reader actor: one pool at a time, whatever its threads, and known to the ledger at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raysb.schema import ID, POOL, num_rows
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits
from raysb.selection import Uniform
from raysb.source.plan import PoolPlan
from raysb.training import stages
from raysb.training.reading import with_weights
from raysb.training.stages import Flow, PoolReader, ReadingScorer

PLAN = PoolPlan(num_rows=40, pool_rows=10, epochs=1)


class Reading:
    """In the place of `raysb.training.reading.Reading`, of a file that two may not read at once."""

    num_readers = 1
    selector = Uniform()

    def __init__(self) -> None:
        self._file = threading.Lock()

    def read(self, plan: PoolPlan, pool: int) -> dict[str, Any]:
        assert self._file.acquire(blocking=False), f"pool {pool} is read beside another one"
        time.sleep(0.05)
        self._file.release()
        return {ID: np.arange(10) + 10 * pool, POOL: np.full(10, pool)}

    def read_wanted(self, plan: PoolPlan, pool: int, outlook: Any) -> dict[str, Any]:
        return with_weights(self.read(plan, pool))


class Gate:
    """A ledger that lets every pool pass and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def reader_is_up(self, generation: int) -> None:
        self.told.append(f"reader of {generation}")

    def admit(self, *_: int) -> bool:
        return True

    def grant(self, *_: int) -> bool:
        return True

    def scored(self, *_: Any) -> None:
        pass


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Flow:
    monkeypatch.setattr(stages, "step_back", lambda: None)  # of this process it would be for good
    monkeypatch.setattr(stages.ray, "get", lambda reference: reference)
    handle: Any = SimpleNamespace(
        ledger=Gate(), history=None, can_be_asked=lambda role: None, get_reading=Reading
    )
    return Flow(handle, PLAN, 3, [Cursor(0, (0, 2))])


def test_pools_that_are_trained_already_are_not_looked_at_beside_one_that_is_read(
    flow: Flow,
) -> None:
    reader = PoolReader(flow)
    with ThreadPoolExecutor(4) as threads:
        blocks = list(threads.map(reader, [{POOL: np.array([pool])} for pool in range(4)]))
    assert [num_rows(block) for block in blocks] == [0, 10, 0, 10]
    assert all(block.keys() == blocks[0].keys() for block in blocks)


def test_a_reader_tells_that_it_is_up_before_a_scorer_builds_its_model(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate: Any = flow.handle.ledger

    def scorer(given: Flow) -> Any:
        gate.told.append("scorer")
        return SimpleNamespace(scorer=None)

    monkeypatch.setattr(stages, "PoolScorer", scorer)
    ReadingScorer(flow)
    assert gate.told == ["reader of 3", "scorer"]


def test_a_reader_that_is_up_is_one_that_ray_has_found_a_place_for() -> None:
    ledger = Ledger()
    before = ledger.open(Limits(global_batch=4), Cursor(), 10, 0)
    generation = ledger.open(Limits(global_batch=4), Cursor(), 10, 0)
    ledger.reader_is_up(before)
    assert not ledger.progress()["asked"]
    ledger.reader_is_up(generation)
    assert ledger.progress()["asked"]
