"""The gate, simulated: no deadlock, no age above the bound, nothing lost, nothing counted twice.

The simulator knows nothing of the ledger's inside: scorers that ask, work, crash and ask again;
pools delivered in order, whole, to the worker that has had the fewest rows; workers that step
together; news of their steps that arrives late.
"""

import random
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raysb.errors import NonFiniteError
from raysb.history.ring import LossRing
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import (
    FRESH_STEPS,
    Limits,
    age_bound,
    limits_as_grown,
    limits_for,
    smallest_max_rows,
)
from raysb.scoring.records import Grant, PoolRecord, Refusal

NO_LOSSES = np.empty(0, np.float32)
NO_IDS = np.empty(0, np.int64)


def record(pool, selected, rows=10, epoch=0, losses=NO_LOSSES, nonfinite=NO_IDS, correct=None):
    return PoolRecord(pool, epoch, rows, selected, losses, correct, nonfinite, 0.0)


class Simulation:
    """One generation of scorers and workers around a ledger."""

    def __init__(
        self, rng, limits, *, n, b, w, scorers, pools, crash=0.0, counts=None, cursor=None, step=0
    ):
        self.rng, self.limits, self.n, self.b, self.w = rng, limits, n, b, w
        self.ledger = Ledger()
        self.generation = self.ledger.open(limits, cursor or Cursor(), pools, step)
        self.step, self.first_step, self.num_consumed = step, step, 0
        self.crash, self.counts, self.seed = crash, counts or self.draw, rng.random()
        cursor = cursor or Cursor()
        self.order = [q for q in range(cursor.low, pools) if q not in cursor.done]
        self.todo = deque(q for q in self.order if q not in cursor.waiting)
        self.scorers = [None] * scorers  # None or [pool, weights_step or None]
        self.speeds = [rng.choice([0.05, 1, 1, 5]) for _ in range(scorers)]
        self.outputs, self.delivered = {}, 0
        self.reported, self.late_replays = set(), 0
        self.queues, self.had = [deque() for _ in range(w)], [0] * w
        self.news = deque()
        self.trained, self.scored_rows, self.ages, self.granted = {}, {}, [], {}
        for pool, waiting in cursor.waiting.items():  # read again, neither granted nor reported
            self.outputs[pool] = [(pool, step)] * waiting.num_rows
            self.scored_rows[pool] = waiting.num_rows
        self.deliver()

    def cursor(self):
        """Where training stands."""
        return self.ledger.cursor({q: np.arange(count) for q, count in self.trained.items()})

    def draw(self, pool):
        """How many rows a pool selects: the same for the same weights, which a replay has."""
        rng = random.Random(f"{self.seed} {pool} {self.granted[pool].weights_step}")
        kind = rng.random()
        return 0 if kind < 0.3 else self.n if kind > 0.8 else rng.randint(0, self.n)

    def run(self, max_steps=None) -> bool:
        """Act at random until all is trained; False when nothing can happen any more."""
        while not self.over() and (max_steps is None or self.step - self.first_step < max_steps):
            actions = [(self.train, 1.0), (self.hear, 0.5)]
            actions += [(lambda i=i: self.act(i), s) for i, s in enumerate(self.speeds)]
            keyed = [(self.rng.random() ** (1 / weight), action) for action, weight in actions]
            if not any(action() for _, action in sorted(keyed, key=lambda each: -each[0])):
                return False
        return True

    def over(self) -> bool:
        return self.delivered == len(self.order) and not any(self.queues)

    def act(self, i) -> bool:
        if self.scorers[i] is None:
            if not self.todo:
                return False
            self.scorers[i] = [self.todo.popleft(), None]
        pool, weights = self.scorers[i]
        if weights is None:
            grant = self.ledger.grant(self.generation, pool, self.n)
            if not isinstance(grant, Grant):
                return False
            self.scorers[i][1] = grant.weights_step
            if pool in self.reported and grant is not self.granted[pool]:
                self.late_replays += 1
            self.granted[pool] = grant
            return True
        crashes = self.rng.random() < self.crash
        if crashes and self.rng.random() < 0.5:  # before it reports: the call runs again
            self.scorers[i][1] = None
            return True
        selected = self.counts(pool)
        for _ in range(self.rng.choice([1, 1, 2])):
            self.ledger.scored(self.generation, record(pool, selected, self.n))
        self.reported.add(pool)
        if crashes:  # after it reported, before its rows left
            self.scorers[i][1] = None
            return True
        self.outputs[pool] = [(pool, weights)] * selected
        self.scored_rows[pool] = selected
        self.scorers[i] = None
        self.deliver()
        return True

    def deliver(self) -> None:
        while self.delivered < len(self.order) and self.order[self.delivered] in self.outputs:
            rows = self.outputs.pop(self.order[self.delivered])
            rank = self.had.index(min(self.had))
            self.had[rank] += len(rows)
            self.queues[rank].extend(rows)
            self.delivered += 1

    def train(self) -> bool:
        ended = self.delivered == len(self.order)
        if not any(self.queues) or not (ended or all(len(q) >= self.b for q in self.queues)):
            return False
        for queue in self.queues:
            for _ in range(min(self.b, len(queue))):
                pool, weights = queue.popleft()
                self.ages.append(self.step - weights)
                self.trained[pool] = self.trained.get(pool, 0) + 1
                self.num_consumed += 1
        self.step += 1
        self.news.append((self.step, self.num_consumed))
        return True

    def hear(self) -> bool:
        if not self.news:
            return False
        told = self.news.popleft()
        self.ledger.stepped(self.generation, *told)
        if self.rng.random() < 0.3:
            self.ledger.stepped(self.generation, *told)
        return True


def complete(simulation) -> bool:
    expected = {pool: k for pool, k in simulation.scored_rows.items() if k}
    return simulation.trained == expected and len(simulation.scored_rows) == len(simulation.order)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    w=st.integers(1, 4),
    b=st.integers(1, 6),
    n=st.integers(1, 9),
    window=st.integers(1, 6),
    spare=st.sampled_from([0, 0, 1, 7]),
    publish_every=st.sampled_from([1, 1, 3]),
    scorers=st.integers(1, 5),
    crash=st.sampled_from([0.0, 0.3]),
)
def test_from_the_smallest_k_on_nothing_deadlocks_ages_keep_the_bound_and_no_row_is_lost(
    seed, w, b, n, window, spare, publish_every, scorers, crash
):
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
    rows = smallest_max_rows(**sizes) + spare
    bound = age_bound(max_rows=rows, window=window, publish_every=publish_every, **sizes)
    limits = Limits(
        global_batch=w * b, max_rows=rows, window=window, publish_every=publish_every, max_age=bound
    )
    simulation = Simulation(
        random.Random(seed), limits, n=n, b=b, w=w, scorers=scorers, pools=60, crash=crash
    )
    assert simulation.run(), "deadlock"
    assert complete(simulation)
    # a call that died after its report, and comes back when its grant is forgotten, selects anew
    rows += simulation.late_replays * n
    bound = age_bound(max_rows=rows, window=window, publish_every=publish_every, **sizes)
    assert max(simulation.ages, default=0) <= bound


def test_a_selector_that_starts_fresh_has_the_ages_of_the_smallest_k_for_its_first_steps() -> None:
    sizes = {"pool_rows": 8, "batch_size": 4, "num_workers": 2}
    limits = limits_for("auto", num_actors=2, starts_fresh=True, **sizes)
    assert limits.fresh_steps == FRESH_STEPS
    fresh = age_bound(max_rows=limits.first_rows, window=limits.window, publish_every=1, **sizes)
    oldest = {}
    for steps in (30, 0):
        given = replace(limits, fresh_steps=steps)
        ages = []
        for seed in range(40):
            simulation = Simulation(random.Random(seed), given, n=8, b=4, w=2, scorers=4, pools=90)
            assert simulation.run(max_steps=30), "deadlock"
            ages += simulation.ages
            assert simulation.run(), "deadlock"
            assert complete(simulation)
            assert max(simulation.ages) <= limits.max_age
        oldest[steps] = max(ages)
    assert oldest[30] <= fresh < oldest[0]


@pytest.mark.parametrize("w", [1, 2, 3, 4])
@pytest.mark.parametrize(("b", "n"), [(4, 5), (3, 2), (6, 9)])
def test_one_row_below_the_smallest_k_there_is_a_schedule_that_deadlocks(w, b, n) -> None:
    """Every worker one row short of a batch, and all but one with a whole pool besides."""
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
    fill = [min(n, b - 1 - start) for start in range(0, b - 1, n)]
    counts = [k for k in fill for _ in range(w)] + [n] * (w - 1) + [n] * 20
    for rows, survives in (
        (smallest_max_rows(**sizes) - 1, False),
        (smallest_max_rows(**sizes), True),
    ):
        limits = Limits(global_batch=w * b, max_rows=rows, window=3)
        simulation = Simulation(
            random.Random(0),
            limits,
            n=n,
            b=b,
            w=w,
            scorers=1,
            pools=len(counts),
            counts=counts.__getitem__,
        )
        assert simulation.run() == survives


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    w=st.integers(1, 4),
    b=st.integers(1, 6),
    n=st.integers(1, 9),
    scorers=st.integers(1, 5),
)
def test_in_lockstep_every_pool_has_exactly_the_weights_that_its_predecessors_rows_allow(
    seed, w, b, n, scorers
):
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w, "num_actors": scorers}
    counts = random.Random(seed + 1).choices(range(n + 1), k=40)
    simulation = Simulation(
        random.Random(seed),
        Limits(global_batch=w * b, lockstep=True),
        n=n,
        b=b,
        w=1,  # whole batches of W B rows, as the rebatched stream of lockstep gives them
        scorers=scorers,
        pools=40,
        crash=0.2,
        counts=counts.__getitem__,
    )
    simulation.b = w * b
    assert simulation.run(), "deadlock"
    before = 0
    for pool, count in enumerate(counts):
        assert simulation.granted[pool].weights_step == before // (w * b)
        before += count
    assert complete(simulation)
    assert max(simulation.ages, default=0) <= limits_for(0, **sizes).max_age


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), w=st.integers(1, 3), stop=st.integers(0, 30))
def test_resuming_at_any_cursor_trains_every_row_that_was_not(seed, w, stop) -> None:
    """Before `low` and in `done` all is trained; what waits is trained once, not scored again."""
    n, b, pools = 7, 3, 30
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
    limits = Limits(global_batch=w * b, max_rows=smallest_max_rows(**sizes) + 5, window=4)
    args = {"n": n, "b": b, "w": w, "scorers": 3, "pools": pools, "crash": 0.1}
    first = Simulation(random.Random(seed), limits, **args)
    assert first.run(max_steps=stop)
    cursor = first.cursor()
    for pool in (*range(cursor.low), *cursor.done):
        assert pool in first.reported
        assert first.trained.get(pool, 0) == first.scored_rows.get(pool, 0)
    assert cursor.low not in cursor.done
    for pool, waiting in cursor.waiting.items():
        selected = first.scored_rows.get(pool)  # a crash may keep what was reported from its rows
        assert selected is None or waiting.num_rows == selected - first.trained.get(pool, 0)
    second = Simulation(random.Random(seed + 1), limits, cursor=cursor, step=first.step, **args)
    assert second.run(), "deadlock"
    assert complete(second)
    assert not second.reported & cursor.waiting.keys()
    assert {*range(cursor.low), *cursor.done, *second.order} == set(range(pools))
    assert second.cursor().low == pools


def opened(limits=None, **args):
    ledger = Ledger(**args)
    return ledger, ledger.open(
        limits or Limits(global_batch=4, max_rows=20, window=3), Cursor(), 99, 0
    )


def test_calls_of_another_generation_are_refused_and_change_nothing() -> None:
    ledger, old = opened(ring=LossRing(10))
    ledger.grant(old, 0, 10)
    ledger.scored(old, record(0, 5, losses=np.ones(10, np.float32)))
    new = ledger.open(ledger.limits, Cursor(), 99, 7)
    before = ledger.progress() | {"window": ledger.ring.window().tolist()}
    assert ledger.grant(old, 1, 10) is Refusal.CLOSED
    assert ledger.admit(old, 1, 2) is Refusal.CLOSED
    ledger.scored(old, record(1, 5, losses=np.full(10, 9, np.float32)))
    ledger.stepped(old, 50, 500)
    ledger.close(old)
    assert ledger.progress() | {"window": ledger.ring.window().tolist()} == before
    assert ledger.grant(new, 0, 10).weights_step == 7
    ledger.close(new)
    assert ledger.grant(new, 1, 10) is Refusal.CLOSED


def test_a_call_that_runs_twice_changes_nothing() -> None:
    ledger, g = opened(ring=LossRing(50), rows_per_epoch=1000)
    told = record(
        0, 4, losses=np.arange(8, dtype=np.float32), nonfinite=np.array([7, 9]), correct=3
    )
    seen = []
    for _ in range(3):
        ledger.grant(g, 0, 10)
        ledger.scored(g, told)
        ledger.stepped(g, 1, 4)
        seen.append(
            (ledger.progress(), ledger.ring.window().tolist(), dict(ledger.totals.nonfinite))
        )
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][2] == {7: 1, 9: 1}
    ledger.stepped(g, 0, 0)  # old news that arrives last
    assert (ledger.step, ledger.num_consumed) == (1, 4)


def totals(ledger):
    return {
        epoch: (t.num_scored, t.num_selected, t.num_correct, t.num_judged, t.loss_sum)
        for epoch, t in ledger.totals.epochs.items()
    }


def scored_once(ledger, g, pool, value, selected):
    ledger.grant(g, pool, 10)
    losses = np.full(10, value, np.float32)
    ledger.scored(g, record(pool, selected, epoch=pool // 2, losses=losses, correct=selected))


def test_a_pool_that_is_scored_again_replaces_what_it_gave_also_in_a_later_generation() -> None:
    ledger, g = opened(Limits(global_batch=4), ring=LossRing(100))
    for pool in range(3):
        scored_once(ledger, g, pool, 1.0, 5)
    scored_once(ledger, g, 1, 3.0, 2)
    assert totals(ledger) == {0: (20, 7, 7, 20, 40.0), 1: (10, 5, 5, 10, 10.0)}
    g = ledger.open(ledger.limits, Cursor(1), 99, 3)
    scored_once(ledger, g, 1, 2.0, 4)
    scored_once(ledger, g, 2, 5.0, 1)
    assert totals(ledger) == {0: (20, 9, 9, 20, 30.0), 1: (10, 1, 1, 10, 50.0)}
    assert ledger.ring.window().tolist() == [1.0] * 10 + [2.0] * 10 + [5.0] * 10


@pytest.mark.parametrize("fresh", [True, False], ids=["new process", "same ledger"])
def test_sums_are_replaced_too_when_a_checkpoint_is_taken_up(fresh) -> None:
    """Pools past the cursor were scored before the checkpoint, and are scored again after it."""
    ledger, g = opened(Limits(global_batch=4), ring=LossRing(100))
    for pool in range(4):
        scored_once(ledger, g, pool, 1.0, 5)
    state = ledger.state_dict()
    scored_once(ledger, g, 4, 1.0, 5)  # after the checkpoint: as if it had never been
    resumed = Ledger(ring=LossRing(100)) if fresh else ledger
    resumed.load_state_dict(state)
    g = resumed.open(Limits(global_batch=4), Cursor(2), 99, 3)
    for pool in range(2, 6):
        scored_once(resumed, g, pool, 2.0, 3)
    assert totals(resumed) == {
        0: (20, 10, 10, 20, 20.0),
        1: (20, 6, 6, 20, 40.0),
        2: (20, 6, 6, 20, 40.0),
    }


def test_nan_losses_pass_up_to_the_limit_and_then_end_the_run_naming_ids() -> None:
    ledger, g = opened(Limits(global_batch=4), rows_per_epoch=1000, max_nonfinite_fraction=0.01)
    ledger.grant(g, 0, 100)
    ones = np.ones(90, np.float32)
    ledger.scored(g, record(0, 5, rows=100, losses=ones, nonfinite=np.arange(100, 110)))
    ledger.raise_failure()
    assert ledger.grant(g, 1, 100) is not Refusal.CLOSED
    ones = np.ones(99, np.float32)
    ledger.scored(g, record(1, 5, rows=100, losses=ones, nonfinite=np.array([4242])))
    assert ledger.grant(g, 2, 100) is Refusal.CLOSED
    with pytest.raises(NonFiniteError, match="11 of 200 losses in epoch 0") as caught:
        ledger.raise_failure()
    for part in ("max_nonfinite_fraction=0.01", "100, 101", "nonfinite.json", "train.lr"):
        assert part in str(caught.value)
    assert ledger.totals.nonfinite.keys() == {*range(100, 110), 4242}


def test_the_limit_of_nan_losses_counts_each_epoch_for_itself() -> None:
    ledger, g = opened(Limits(global_batch=4), rows_per_epoch=100, max_nonfinite_fraction=0.01)
    for epoch in range(5):
        ledger.grant(g, epoch, 10)
        ledger.scored(g, record(epoch, 5, epoch=epoch, nonfinite=np.array([3])))
    ledger.raise_failure()
    assert ledger.totals.nonfinite == {3: 5}


def test_nothing_grows_with_the_run_once_pools_are_trained() -> None:
    ledger, g = opened(Limits(global_batch=4, max_rows=30, window=3), ring=LossRing(50))
    sizes = []
    for pool in range(500):
        scored_once(ledger, g, pool, 1.0, 4)
        ledger.stepped(g, pool + 1, 4 * (pool + 1), oldest=pool - 5)
        held = (ledger.selected, ledger.totals.pools, ledger.rows, ledger.grants, ledger.reserved)
        sizes.append(sum(map(len, held)))
    assert max(sizes[100:]) == max(sizes[200:]) <= 100
    assert ledger.cursor({pool: np.arange(4) for pool in range(494, 500)}) == Cursor(500)
    ledger.forget(3)  # an older one that arrives late
    assert ledger.low == 494
    assert ledger.grant(g, 17, 10) is Refusal.CLOSED  # trained: nothing of it comes twice


def test_a_report_that_comes_after_its_rows_were_trained_changes_nothing() -> None:
    """Else they would count as waiting once more, and nobody can train them: the gate would shut"""
    ledger, g = opened(Limits(global_batch=4, max_rows=8, window=3), ring=LossRing(50))
    for pool in range(3):
        scored_once(ledger, g, pool, 1.0, 4)
        ledger.stepped(g, pool + 1, 4 * (pool + 1), oldest=pool + 1)
    before = ledger.progress(), totals(ledger), ledger.ring.window().tolist(), ledger.cursor({})
    assert before[0]["waiting_rows"] == 0
    for pool in range(3):  # calls that died, and were run again
        losses = np.full(10, 2.0, np.float32)
        ledger.scored(g, record(pool, 4, epoch=pool // 2, losses=losses, correct=4))
    after = ledger.progress(), totals(ledger), ledger.ring.window().tolist(), ledger.cursor({})
    assert after == before
    assert isinstance(ledger.grant(g, 3, 8), Grant)
    assert isinstance(ledger.grant(g, 4, 8), Refusal)
    assert after[3] == Cursor(3)


def test_readers_stay_within_the_window_and_the_lead() -> None:
    ledger, g = opened(Limits(global_batch=4, max_rows=20, window=3))
    assert [ledger.admit(g, pool, 2) for pool in range(7)] == [None] * 5 + [Refusal.WAIT] * 2
    ledger.grant(g, 0, 10)
    ledger.scored(g, record(0, 0))
    assert ledger.admit(g, 5, 2) is None
    g = ledger.open(Limits(global_batch=4, lockstep=True), Cursor(), 99, 0)
    assert [ledger.admit(g, pool, 1) for pool in range(3)] == [None, None, Refusal.WAIT]
    g = ledger.open(Limits(global_batch=4), Cursor(), 99, 0)
    assert ledger.admit(g, 98, 0) is None


def test_who_asks_is_noted_also_while_it_waits_until_the_next_generation() -> None:
    """A worker without rows tells by this whether any reader or scorer has found a place to run."""
    ledger = Ledger()
    assert ledger.admit(0, 0, 1) is Refusal.CLOSED
    assert not ledger.progress()["asked"]
    g = ledger.open(Limits(global_batch=4, max_rows=40, window=2), Cursor(), 99, 0)
    assert not ledger.progress()["asked"]
    assert ledger.admit(g, 50, 1) is Refusal.WAIT
    assert ledger.progress()["asked"]
    g = ledger.open(Limits(global_batch=4, max_rows=40, window=2), Cursor(), 99, 0)
    assert not ledger.progress()["asked"]
    assert ledger.grant(g, 50, 4) is Refusal.WAIT  # a scorer that reads for itself
    assert ledger.progress()["asked"]


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    """What follows is its echo: of the workers that lose one, of the scorers that are closed."""
    ledger = Ledger()
    g = ledger.open(Limits(global_batch=4), Cursor(), 9, 0)
    ledger.raise_failure()
    ledger.fail("the cause")
    ledger.fail("an echo")
    assert ledger.progress()["failure"] == "the cause"
    assert ledger.grant(g, 0, 4) is Refusal.CLOSED
    with pytest.raises(NonFiniteError, match=r"^the cause$"):
        ledger.raise_failure()


def test_the_oldest_pool_ignores_what_others_have_reserved() -> None:
    ledger, g = opened(Limits(global_batch=4, max_rows=10, window=3))
    assert isinstance(ledger.grant(g, 1, 10), Grant)
    assert ledger.grant(g, 2, 10) is Refusal.WAIT
    assert isinstance(ledger.grant(g, 0, 10), Grant)
    assert ledger.progress()["reserved"] == {1: 10, 0: 10}


@pytest.mark.parametrize("fallen_back", [False, True])
def test_the_grants_weights_are_the_last_published_ones(fallen_back) -> None:
    """Those of the start, then of every fourth step after it; what is said between is not heard.

    Once scoring has fallen back, those of every step.
    """
    ledger = Ledger()
    ledger.audits.fallen_back = fallen_back
    g = ledger.open(Limits(global_batch=4, publish_every=4), Cursor(), 99, 6, "weights 6")
    seen = []
    for step in range(6, 16):
        ledger.stepped(g, step, 0, f"weights {step}")
        grant = ledger.grant(g, step, 1)
        assert grant.weights == f"weights {grant.weights_step}"
        seen.append(grant.weights_step)
    assert seen == (list(range(6, 16)) if fallen_back else [6] * 4 + [10] * 4 + [14] * 2)


def test_a_call_that_died_after_its_report_gets_the_grant_that_it_had() -> None:
    """Else it would select other rows than those that later grants have counted on."""
    ledger = Ledger(ring=LossRing(50))
    limits = Limits(global_batch=4, max_rows=30, window=3)
    g = ledger.open(limits, Cursor(), 99, 0, "weights 0")
    first = ledger.grant(g, 0, 10)
    scored_once(ledger, g, 0, 1.0, 4)
    ledger.stepped(g, 1, 4, "weights 1")
    scored_once(ledger, g, 1, 2.0, 4)
    again = ledger.grant(g, 0, 10)
    assert (again.weights_step, again.weights) == (first.weights_step, "weights 0")
    np.testing.assert_array_equal(again.window, first.window)
    assert ledger.grant(g, 2, 10).weights == "weights 1"


def whole_epoch(ledger, g, epoch, right):
    """Two pools of 10 rows, of which so many are predicted rightly."""
    for pool, correct in ((2 * epoch, min(right, 10)), (2 * epoch + 1, max(right - 10, 0))):
        assert isinstance(ledger.grant(g, pool, 10), Grant)
        ones = np.ones(10, np.float32)
        ledger.scored(g, record(pool, 0, epoch=epoch, losses=ones, correct=correct))


def of_two_pools(limits):
    ledger = Ledger(rows_per_epoch=20, pools_per_epoch=2)
    return ledger, ledger.open(limits, Cursor(), 99, 0)


def test_a_grant_tells_the_accuracy_of_the_newest_earlier_epoch_that_was_scored_whole() -> None:
    ledger, g = of_two_pools(Limits(global_batch=4))
    assert ledger.grant(g, 0, 10).accuracy is None
    whole_epoch(ledger, g, 0, right=13)
    assert [ledger.grant(g, pool, 10).accuracy for pool in (2, 3)] == [0.65, 0.65]
    first = record(2, 0, epoch=1, losses=np.ones(10, np.float32), correct=10)
    ledger.scored(g, first)
    # the next epoch is asked for while half of this one is not scored
    assert ledger.grant(g, 4, 10).accuracy == 0.65
    ledger.scored(g, first._replace(pool=3, num_correct=9))
    assert ledger.grant(g, 5, 10).accuracy == 0.95
    assert Ledger().totals.accuracy_before(9, 20) is None


def test_a_pool_that_comes_again_is_told_the_accuracy_that_it_was_told_before() -> None:
    """Also after a restart that knows of epochs behind it."""
    ledger, g = of_two_pools(Limits(global_batch=4))
    for epoch, right in enumerate((10, 15, 20)):
        whole_epoch(ledger, g, epoch, right)
    fresh = Ledger(rows_per_epoch=20, pools_per_epoch=2)
    fresh.load_state_dict(ledger.state_dict())
    for again in (ledger, fresh):
        g = again.open(Limits(global_batch=4), Cursor(), 99, 0)
        told = [again.grant(g, pool, 10).accuracy for pool in range(7)]
        assert told == [None, None, 0.5, 0.5, 0.75, 0.75, 1.0]


def test_rows_that_nobody_judged_make_no_accuracy_and_take_none_away() -> None:
    ledger, g = of_two_pools(Limits(global_batch=4))
    whole_epoch(ledger, g, 0, right=11)
    for pool in (2, 3):  # drawn unread, as stale epochs do
        ledger.scored(g, record(pool, 3, epoch=1))
    assert ledger.grant(g, 4, 10).accuracy == 0.55
    untold = Ledger(rows_per_epoch=20)
    g = untold.open(Limits(global_batch=4), Cursor(), 99, 0)
    whole_epoch(untold, g, 0, right=11)
    assert untold.grant(g, 2, 10).accuracy is None  # it does not know a pool's epoch


def test_a_state_of_another_version_is_refused() -> None:
    state = Ledger().state_dict() | {"version": 9}
    with pytest.raises(ValueError, match="version 9"):
        Ledger().load_state_dict(state)


# --- epochs that look back ------------------------------------------------------------------------


def looking_back(limits, **args):
    ledger = Ledger()
    return ledger, ledger.open(limits, Cursor(), 9, 0, None, 3)


@pytest.mark.parametrize("last", [0, 1, 2])
@pytest.mark.parametrize(
    "limits",
    [
        Limits(global_batch=4),
        limits_for("auto", pool_rows=10, batch_size=4, num_workers=1, num_actors=3),
    ],
)
def test_an_epoch_that_looks_back_begins_when_the_one_before_it_is_scored(limits, last) -> None:
    """Whichever of its pools is scored last."""
    ledger, g = looking_back(limits)
    for pool in range(3):
        assert ledger.admit(g, pool, 9) is None
        assert isinstance(ledger.grant(g, pool, 10), Grant)
    assert ledger.admit(g, 3, 9) is Refusal.WAIT
    assert ledger.grant(g, 3, 10) is Refusal.WAIT
    for pool in {0, 1, 2} - {last}:
        ledger.scored(g, record(pool, 0))
    assert ledger.admit(g, 3, 9) is Refusal.WAIT
    assert ledger.grant(g, 4, 10) is Refusal.WAIT
    ledger.scored(g, record(last, 0))
    for pool in (4, 3):  # in any order, once it has begun
        assert ledger.admit(g, pool, 9) is None
        assert isinstance(ledger.grant(g, pool, 10), Grant)


def test_in_lockstep_it_begins_when_the_last_steps_are_done_too() -> None:
    ledger, g = looking_back(Limits(global_batch=4, lockstep=True))
    for pool in range(3):
        assert isinstance(ledger.grant(g, pool, 10), Grant)
        ledger.scored(g, record(pool, 4))
        assert ledger.admit(g, pool + 1, 9) is (None if pool < 2 else Refusal.WAIT)
        if pool < 2:
            ledger.stepped(g, pool + 1, 4 * (pool + 1))
    ledger.stepped(g, 3, 12)
    assert ledger.admit(g, 3, 9) is None
    assert ledger.admit(g, 4, 9) is None


def test_rows_scored_by_earlier_pools_come_with_the_grant_and_replays_count_once() -> None:
    ledger, g = looking_back(Limits(global_batch=4))
    seven = np.ones(7, np.float32)
    for _ in range(2):
        assert ledger.grant(g, 0, 10).num_scored in (0, 7)
        ledger.scored(g, record(0, 3, losses=seven))
    assert ledger.grant(g, 1, 10).num_scored == 7
    restored = Ledger()
    restored.load_state_dict(ledger.state_dict())
    assert restored.totals.num_scored == 7


class Changing(Simulation):
    """Scorers come and go: who is too many takes no further pool, and the ledger hears of it."""

    def __init__(self, rng, grown, **sizes):
        super().__init__(rng, grown[0], scorers=len(grown), **sizes)
        args = (grown[0], Cursor(), sizes["pools"], 0)
        self.generation = self.ledger.open(*args, grown=grown[1:])
        self.most = len(grown)
        self.many = 1

    def act(self, i) -> bool:
        if self.rng.random() < 0.05:
            self.many = self.rng.randint(1, self.most)
        running = max(self.many, sum(each is not None for each in self.scorers))
        self.ledger.scorers(self.generation, running)
        held = sum(each is not None for each in self.scorers)
        if self.scorers[i] is None and held >= self.many:
            return False
        return super().act(i)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    w=st.integers(1, 3),
    b=st.integers(1, 6),
    n=st.integers(1, 9),
    most=st.integers(2, 5),
    bound=st.sampled_from(["auto", 12, 40]),
)
def test_while_scorers_come_and_go_nothing_deadlocks_ages_keep_the_bound_and_no_row_is_lost(
    seed, w, b, n, most, bound
):
    sizes = {"pool_rows": n, "batch_size": b, "num_workers": w}
    try:
        grown = limits_as_grown(bound, num_actors=(1, most), **sizes)
    except ValueError:
        assume(False)
    simulation = Changing(random.Random(seed), grown, n=n, b=b, w=w, pools=60)
    assert simulation.run(), "deadlock"
    assert complete(simulation)
    assert max(simulation.ages, default=0) <= max(limits.max_age for limits in grown)


def test_a_pool_whose_scorers_were_more_does_not_wait_for_rows_that_wait_behind_it() -> None:
    """They were granted while the window was wide; nobody can train them before it."""
    sizes = {"pool_rows": 10, "batch_size": 4, "num_workers": 1}
    grown = limits_as_grown("auto", num_actors=(1, 4), **sizes)
    ledger = Ledger()
    g = ledger.open(grown[0], Cursor(), 99, 0, grown=grown[1:])
    ledger.scorers(g, 4)
    for pool in range(1, 8):
        assert isinstance(ledger.grant(g, pool, 10), Grant)
        ledger.scored(g, record(pool, 10))
    ledger.scorers(g, 1)
    assert isinstance(ledger.grant(g, 0, 10), Grant)


def test_the_number_of_scorers_of_an_earlier_generation_says_nothing() -> None:
    grown = limits_as_grown("auto", pool_rows=10, batch_size=4, num_workers=1, num_actors=(2, 4))
    ledger = Ledger()
    old = ledger.open(grown[0], Cursor(), 99, 0, grown=grown[1:])
    assert ledger.scorers(old, 2) == 2
    new = ledger.open(grown[0], Cursor(), 99, 0, grown=grown[1:])
    assert ledger.scorers(old, 4) is None
    assert ledger.limits == grown[0]
    assert ledger.scorers(new, 4) == 2
    assert ledger.limits == grown[2]
    ledger.close(new)
    assert ledger.scorers(new, 2) is None
