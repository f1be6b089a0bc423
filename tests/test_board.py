"""The board as an actor: who waits for a value gets it, however many there are."""

import pytest
import ray

from raysb.board import Board

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

MANY = 1_100  # Ray lets 1,000 calls begin unless told otherwise
LIMIT_S = 60


def test_as_many_as_there_are_readers_wait_for_a_value_and_get_it() -> None:
    """The call that brings it stood in line behind the thousandth, for ever."""
    board = Board.start()
    waiting = [board._actor.get.remote("outlook", 3) for _ in range(MANY)]
    assert ray.wait(waiting, timeout=2)[0] == []
    board.put("outlook", 3, "rows")
    assert set(ray.get(waiting, timeout=LIMIT_S)) == {(3, "rows")}
    board.kill()
