"""The thread that tells the ledger of steps: late perhaps, never early, and nothing of use lost."""

import threading
import time

import pytest

from raysb.scoring.agreement import Audits, RankAgreement
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits
from raysb.training.teller import Step, Teller

LONG_S = 60.0


class Told:
    """A ledger that wakes whoever waits for a call."""

    def __init__(self, publish_every: int = 1) -> None:
        self.ledger = Ledger()
        limits = Limits(global_batch=4, publish_every=publish_every)
        self.generation = self.ledger.open(limits, Cursor(), 100, 0)
        self.steps: list[int] = []
        self._arrived = threading.Condition()

    def stepped(
        self,
        generation: int,
        step: int,
        num_consumed: int,
        weights: object,
        oldest: int,
        waited_s: float,
    ) -> None:
        with self._arrived:
            self.ledger.stepped(generation, step, num_consumed, weights, oldest, waited_s)
            self.steps.append(step)
            self._arrived.notify_all()

    def progress(self) -> dict[str, object]:
        return self.ledger.progress()

    def wait_for(self, step: int) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: step in self.steps, timeout=20)


def teller(told: Told, pause_s: float) -> Teller:
    return Teller(told, told.generation, pause_s)  # type: ignore[arg-type]


def test_without_a_pause_the_last_step_is_told_with_its_rows() -> None:
    told = Told()
    tells = teller(told, 0.0)
    for step in range(1, 51):
        tells.tell(Step(step, 4 * step, 0, {}))
    tells.close()
    assert told.steps == sorted(set(told.steps))
    assert (told.ledger.step, told.ledger.num_consumed) == (50, 200)


def test_in_a_pause_only_the_newest_step_is_kept() -> None:
    told = Told()
    tells = teller(told, LONG_S)
    tells.tell(Step(1, 4, 0, {}))
    assert told.wait_for(1)
    for step in range(2, 9):
        tells.tell(Step(step, 4 * step, 0, {}))
    tells.close()  # ends the pause
    assert told.steps == [1, 8]
    assert told.ledger.weights_step == told.ledger.weights.step == 8


def test_it_is_ready_when_a_step_would_be_told_of_at_once() -> None:
    told = Told()
    tells = teller(told, LONG_S)
    assert becomes_ready(tells)
    tells.tell(Step(1, 4, 0, {}))
    assert not tells.ready
    assert told.wait_for(1)
    assert not becomes_ready(tells, within_s=0.2)  # in the pause
    tells.hurry()
    assert becomes_ready(tells)
    tells.close()


def becomes_ready(tells: Teller, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while not tells.ready and time.monotonic() < end:
        time.sleep(0.01)
    return tells.ready


def test_a_trainer_without_rows_ends_the_pause() -> None:
    told = Told()
    tells = teller(told, LONG_S)
    tells.tell(Step(1, 4, 0, {}))
    assert told.wait_for(1)
    tells.tell(Step(2, 8, 0, {}))
    tells.hurry()
    assert told.wait_for(2)
    tells.close()


@pytest.mark.parametrize("publish_every", [2, 3])
def test_a_step_that_publishes_is_never_dropped_for_one_that_does_not(publish_every: int) -> None:
    told = Told(publish_every)
    tells = teller(told, LONG_S)
    tells.tell(Step(1, 4, 0, None))
    assert told.wait_for(1)
    for step in range(2, 12):
        tells.tell(Step(step, 4 * step, 0, {} if step % publish_every == 0 else None))
        tells.hurry()
        assert told.ledger.weights_step == 0 or told.ledger.weights is not None
    tells.close()
    newest = 11 // publish_every * publish_every
    assert told.ledger.step == 11
    assert told.ledger.weights_step == told.ledger.weights.step == newest


def test_of_the_steps_that_publish_only_the_newest_waits() -> None:
    told = Told(publish_every=2)
    tells = teller(told, LONG_S)
    tells.tell(Step(1, 4, 0, None))
    assert told.wait_for(1)
    for step in range(2, 100):
        tells.tell(Step(step, 4 * step, 0, {} if step % 2 == 0 else None))
        assert len(tells._steps) <= 2  # each holds a copy of the weights
    tells.close()
    assert told.steps == [1, 98, 99]
    assert told.ledger.weights_step == told.ledger.weights.step == 98


def test_when_scoring_falls_back_the_next_publication_brings_the_word() -> None:
    told = Told(publish_every=3)
    told.ledger.audits = Audits(least=0.5)
    tells = Teller(told, told.generation, 0.0, asks=True)  # type: ignore[arg-type]
    heard = []
    for step in range(1, 10):
        tells.tell(Step(step, 4 * step, 0, {} if step % 3 == 0 else None))
        assert told.wait_for(step)
        heard.append(tells.fallen_back)
        if step == 4:
            for pool in (1, 2, 3):
                told.ledger.audits.add(pool, RankAgreement(0.4, 0.4))
    tells.close()
    assert not any(heard[:5])  # of steps 1 to 5
    assert tells.fallen_back


def test_what_stops_the_thread_is_raised_where_the_next_step_is_told() -> None:
    class Broken(Told):
        def stepped(self, *args: object) -> None:
            raise OSError("the ledger has gone")

    tells = teller(Broken(), 0.0)
    tells.tell(Step(1, 4, 0, {}))
    tells._thread.join(20)
    assert tells.ready  # to raise
    with pytest.raises(OSError, match="the ledger has gone"):
        tells.tell(Step(2, 8, 0, {}))
    with pytest.raises(OSError, match="the ledger has gone"):
        tells.close()
