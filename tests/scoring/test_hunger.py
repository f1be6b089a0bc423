"""How many scorers there should be, on a clock and trainers of the test's own."""

import pytest

from raysb.scoring.hunger import GROW_AFTER_S, SHRINK_AFTER_S, Hunger

STEP_S = 0.25


class World:
    """Scorers and trainers in equilibrium, simulated.

    Args:
        least: Scorers at first.
        most: Scorers that there may be.
    """

    def __init__(self, least: int, most: int) -> None:
        self.now = 0.0
        self.hunger = Hunger(clock=lambda: self.now)
        self.hunger.start(least, most)
        self.running, self.waited = least, 0.0

    def live(self, seconds: float, *, hungry: float, held: float, steps: bool = True) -> list[int]:
        """Let time pass; steps wait a share of it, scorers hold so many pools on the mean."""
        wanted = []
        for tick in range(round(seconds / STEP_S)):
            whole, share = divmod(held, 1)
            self.hunger.holds(int(whole) + (tick % 10 < 10 * share))
            self.now += STEP_S
            self.waited += hungry * STEP_S
            if steps:
                self.hunger.stepped(self.waited)
            wanted.append(self.hunger.wanted(self.running, 0, starving=False))
        return wanted

    def follow(self, seconds: float, need: float) -> list[int]:
        """The same where trainers could eat what `need` scorers score, and scorers come at once."""
        seen = []
        for _ in range(round(seconds)):
            hungry = max(1 - self.running / need, 0.0)
            self.running = self.live(1.0, hungry=hungry, held=min(need, self.running))[-1]
            seen.append(self.running)
        return seen


@pytest.mark.parametrize(("need", "reached"), [(0.3, 1), (2.5, 3), (5.0, 5), (40.0, 8)])
def test_the_number_settles_at_what_the_trainers_can_eat(need: float, reached: int) -> None:
    world = World(1, 8)
    seen = world.follow(200, need)
    assert abs(seen[-1] - reached) <= 1  # within the tenth that counts as hunger
    assert set(seen[-60:]) == {seen[-1]}  # and stays


def test_a_pool_that_was_hungry_shrinks_to_its_minimum_when_trainers_do_not_wait() -> None:
    world = World(2, 8)
    assert max(world.follow(100, 20.0)) == 8
    seen = world.follow(100, 0.5)
    assert seen[int(SHRINK_AFTER_S) - 4] == 8  # not at once
    assert seen[-1] == 2


def test_hungry_trainers_get_no_scorer_where_those_there_are_have_nothing_to_score() -> None:
    world = World(1, 8)  # readers are slow, or the bound on ages holds the rest back
    assert set(world.live(60, hungry=0.9, held=0.3)) == {1}


def test_scorers_are_busy_for_their_own_time_however_many_pools_are_granted_to_them() -> None:
    """Two scorers that have two pools, or a queue of eight, for half of each second, then none."""
    for held in (2, 8):
        world = World(2, 8)
        for _ in range(60):
            wanted = world.live(0.5, hungry=0.5, held=held) + world.live(0.5, hungry=0.5, held=0)
            assert set(wanted) == {2}  # it is not they who are slow
    world = World(2, 8)
    assert max(world.live(60, hungry=0.5, held=8)) > 2  # busy all the time


def test_who_is_on_the_way_is_waited_for_though_nobody_is_hungry_meanwhile() -> None:
    """And what was seen before it came says nothing about the number that there is then."""
    world = World(1, 8)
    wanted = world.live(2 * GROW_AFTER_S, hungry=0.9, held=1)[-1]
    assert wanted == 2
    for _ in range(60):
        world.now += 1.0
        world.hunger.stepped(world.waited)
        assert world.hunger.wanted(1, 1, starving=False) == wanted
    assert set(world.live(GROW_AFTER_S - STEP_S, hungry=0.0, held=0)) == {wanted}


def test_a_scorer_that_found_no_room_is_not_wanted_once_nobody_is_hungry() -> None:
    world = World(1, 8)
    assert world.live(2 * GROW_AFTER_S, hungry=0.9, held=1)[-1] == 2  # and none comes
    assert world.live(2 * GROW_AFTER_S, hungry=0.0, held=0.5)[-1] == 1


def test_nothing_is_decided_before_the_first_step_nor_while_scorers_start() -> None:
    world = World(1, 8)
    assert set(world.live(60, hungry=1.0, held=1.0, steps=False)) == {1}
    world.live(2 * GROW_AFTER_S, hungry=1.0, held=1.0)
    grown = world.hunger.wanted(1, 1, starving=True)
    for _ in range(100):
        world.now += 1.0
        assert world.hunger.wanted(1, 1, starving=True) == grown


def test_a_trainer_that_waits_for_its_next_step_is_hungry_before_it_makes_it() -> None:
    world = World(1, 4)
    world.live(1.0, hungry=0.0, held=1.0)
    world.hunger.holds(1)
    for _ in range(round(GROW_AFTER_S) + 3):
        world.now += 1.0
        wanted = world.hunger.wanted(1, 0, starving=True)
    assert wanted == 2  # twice as many is the most at once


def test_an_evaluation_takes_no_scorer_away() -> None:
    world = World(1, 4)
    world.follow(60, 20.0)
    assert world.running == 4
    during = world.live(120, hungry=0.0, held=0.0, steps=False)
    after = world.live(15, hungry=0.5, held=4.0)
    assert set(during + after) == {4}


def test_a_generation_begins_with_the_fewest_and_knows_nothing_of_the_one_before() -> None:
    world = World(1, 4)
    world.follow(60, 20.0)
    world.hunger.start(1, 4)
    assert world.hunger.wanted(1, 0, starving=False) == 1
    assert world.hunger.metrics() == {"running": 1, "least": 1, "most": 1}
