"""The ledger as an actor: who sleeps in it is woken, however many there are."""

import time

import pytest
import ray

from raysb.history.ring import LossRing
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.ledger_actor import LedgerClient
from raysb.scoring.limits import Limits

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

MANY = 1_100  # Ray lets 1,000 calls begin unless told otherwise
LIMIT_S = 60


def test_as_many_calls_as_there_are_pools_at_actors_sleep_and_are_woken() -> None:
    """The call that wakes them stood in line behind the thousandth, for ever."""
    ledger = LedgerClient.start(Ledger(ring=LossRing(4)))
    generation = ledger.open(Limits(global_batch=1, window=1), Cursor(), 2 * MANY, 0)
    actor, until = ledger._actor, time.monotonic() + LIMIT_S
    asleep = [actor.admit.remote(generation, pool, 0) for pool in range(1, 1 + MANY)]
    while len(ray.get(actor.progress.remote(), timeout=LIMIT_S)["asleep"]["admit"]) < MANY:
        assert time.monotonic() < until
    ray.get(actor.close.remote(generation), timeout=LIMIT_S)
    assert not any(ray.get(asleep, timeout=LIMIT_S))
    ledger.kill()
