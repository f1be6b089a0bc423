"""The ledger: who may score which pool, the last R losses, what was scored, what was trained.

Gate, distribution, cursor and audit in one pure class, served by `ledger_actor.py`. A scorer asks
before it scores pool q. It is granted when q is less than S pools past the oldest unscored one and
the selected rows that wait, plus the rows reserved by other grants, are below K; the oldest
unscored pool ignores what others have reserved or selected behind it, so that it never waits for
rows that wait for it (`limits.py` has the bound that follows). In lockstep the rule is: all earlier
pools are scored, and all steps that their selected rows allow are done.

Every call carries the generation of the worker group: what an earlier one left in flight is
refused. Grants, scored pools and consumed rows are idempotent: a call that runs twice changes
nothing.

Invariant: selected == consumed + waiting, and reserved rows are those of granted, unscored pools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysb.errors import NonFiniteError
from raysb.schema import Ids
from raysb.scoring.agreement import Audits
from raysb.scoring.cursor import NO_IDS, Cursor, waiting_of
from raysb.scoring.hunger import Hunger
from raysb.scoring.limits import Limits
from raysb.scoring.records import Grant, PoolRecord, Refusal, Ring
from raysb.scoring.totals import RunTotals

VERSION = 2  # of the state
_MEMORY = 2  # windows of pools whose grants, and so their weights, are kept for replays


@dataclass(kw_only=True)
class Ledger:
    """Gate, distribution, cursor and audit.

    Args:
        ring: The last R losses in pool order, `None` when nothing is scored.
        rows_per_epoch: N, the denominator of `max_nonfinite_fraction`.
        max_nonfinite_fraction: Share of an epoch's losses that may be NaN or infinite.
        pools_per_epoch: By which the epoch of a pool is known; 0: no pool is told of an accuracy.
        audits: What is known of the scores that stand in for the live model's.

    Attributes:
        totals: Sums over the run.
        hunger: How many scorers there are, and how many there should be.
    """

    ring: Ring | None = None
    rows_per_epoch: int = 0
    max_nonfinite_fraction: float = 1.0
    pools_per_epoch: int = 0
    audits: Audits = field(default_factory=Audits)
    generation: int = 0
    closed: bool = True
    failure: str | None = None
    step: int = 0
    totals: RunTotals = field(default_factory=RunTotals)
    hunger: Hunger = field(default_factory=Hunger)

    def __post_init__(self) -> None:
        self._no_scores = None if self.ring is None else self.ring.state_dict()
        self._sizes: tuple[Limits, ...] = (Limits(global_batch=1),)
        self._start(self._sizes[0], Cursor(), 0, 0)

    def open(
        self,
        limits: Limits,
        cursor: Cursor,
        num_pools: int,
        step: int,
        weights: Any = None,
        epoch_pools: int | None = None,
        state: Mapping[str, Any] | None = None,
        grown: Sequence[Limits] = (),
    ) -> int:
        """Begin a generation at a cursor; returns its number. Whatever came before is refused.

        Args:
            limits: What to enforce.
            cursor: Where training stands. Rows that wait there count as selected: they are read
                and trained, and neither granted nor reported once more.
            num_pools: Pools of the run.
            step: Optimizer steps done.
            weights: Where scorers find the weights of that step.
            epoch_pools: Pools of an epoch, where one can only begin when the one before it is
                recorded (`StreamSpec.awaits_epochs`).
            state: What was known at the cursor, of `state_dict`; by default what is known now.
            grown: What to enforce with each further scorer, as far as their number may grow.
        """
        if state is not None:
            self.load_state_dict(state)
        self.generation += 1
        self._sizes = (limits, *grown)
        self.hunger.start(limits.num_actors, self._sizes[-1].num_actors)
        self._start(limits, cursor, num_pools, step, weights, epoch_pools)
        self.closed = False
        return self.generation

    def _start(
        self,
        limits: Limits,
        cursor: Cursor,
        num_pools: int,
        step: int,
        weights: Any = None,
        epoch_pools: int | None = None,
    ) -> None:
        self.limits = limits
        self.num_pools = num_pools
        self.epoch_pools = epoch_pools
        self.step = step
        self.first_step = self.weights_step = step
        self.weights = weights
        self.oldest_unscored = cursor.low
        self.low = cursor.low
        self.selected: dict[int, int] = dict.fromkeys(cursor.done, 0)
        self.selected |= {pool: waiting.num_rows for pool, waiting in cursor.waiting.items()}
        self.rows = {q: w.rows for q, w in cursor.waiting.items() if w.rows is not None}
        self.trained_before = {q: w.trained for q, w in cursor.waiting.items() if w.rows is None}
        self.reserved: dict[int, int] = {}
        self.grants: dict[int, Grant] = {}
        self.hunger.holds(0)
        self.asked = False
        self.num_selected = sum(self.selected.values())
        self.num_consumed = 0
        self._advance()

    def reader_is_up(self, generation: int) -> None:
        """Note that Ray has found a place for a reader, which may be long in getting ready."""
        if not self._refuses(generation):
            self.asked = True

    def close(self, generation: int) -> None:
        """Grant nothing more: the run ends."""
        if generation == self.generation:
            self.closed = True

    def admit(self, generation: int, pool: int, lead: int) -> Refusal | None:
        """Whether a reader may read a pool: not further ahead of scoring than the window."""
        if self._refuses(generation):
            return Refusal.CLOSED
        self.asked = True
        if not self._epoch_may_begin(pool):
            return Refusal.WAIT
        window = 1 if self.limits.lockstep else self.limits.window
        if window is None or pool < self.oldest_unscored + window + lead:
            return None
        return Refusal.WAIT

    def grant(self, generation: int, pool: int, num_rows: int) -> Grant | Refusal:
        """Whether a pool may be scored now, and against what."""
        if self._refuses(generation) or pool < self.low:
            return Refusal.CLOSED  # the run is over, or all of the pool is trained
        self.asked = True
        if pool in self.grants and (self.limits.lockstep or pool in self.selected):
            return self.grants[pool]  # a replay: the same weights and losses, so the same rows
        if pool not in self.selected and not self._may_score(pool):
            return Refusal.WAIT
        if pool not in self.selected:
            self._reserve(pool, num_rows)
        window = np.empty(0, np.float32) if self.ring is None else self.ring.window()
        self.grants[pool] = Grant(
            self.weights_step,
            window,
            self.weights,
            self.totals.num_scored,
            self.audits.fallen_back,
            self._accuracy_before(pool),
        )
        return self.grants[pool]

    def _accuracy_before(self, pool: int) -> float | None:
        """What is known of the epochs before that of a pool."""
        if not self.pools_per_epoch:
            return None
        return self.totals.accuracy_before(pool // self.pools_per_epoch, self.rows_per_epoch)

    def _epoch_may_begin(self, pool: int) -> bool:
        """Whether all that an epoch is chosen by is recorded, in lockstep the last steps too."""
        if self.epoch_pools is None:
            return True
        first = pool - pool % self.epoch_pools
        if first > self.oldest_unscored:
            return False
        return not self.limits.lockstep or first < self.oldest_unscored or self._steps_are_done()

    def _steps_are_done(self) -> bool:
        """Whether all steps are done that the rows selected so far allow."""
        return self.step == self.first_step + self.num_selected // self.limits.global_batch

    def _may_score(self, pool: int) -> bool:
        if self.limits.lockstep:
            return pool == self.oldest_unscored and self._steps_are_done()
        if not self._epoch_may_begin(pool):
            return False
        max_rows = self.limits.rows_at(self.step)
        if pool in self.reserved or max_rows is None or self.limits.window is None:
            return True
        if pool >= self.oldest_unscored + self.limits.window:
            return False
        waiting = self.num_selected - self.num_consumed
        if pool != self.oldest_unscored:
            return waiting + sum(self.reserved.values()) < max_rows
        # rows of later pools arrive after this one's: nobody can train them to make room for it
        later = sum(count for q, count in self.selected.items() if q > pool)
        return waiting - later < max_rows

    def _reserve(self, pool: int, num_rows: int) -> None:
        self.reserved[pool] = num_rows
        self.hunger.holds(len(self.reserved))

    def _free(self, pool: int) -> None:
        self.reserved.pop(pool, None)
        self.hunger.holds(len(self.reserved))

    def scored(self, generation: int, record: PoolRecord) -> None:
        """Note what scoring a pool gave; a replay replaces what it gave before."""
        if generation != self.generation or record.pool < self.low:
            return
        self._free(record.pool)
        self.num_selected += record.num_selected - self.selected.get(record.pool, 0)
        self.selected[record.pool] = record.num_selected
        if record.rows is not None:
            self.rows[record.pool] = record.rows
        self._rank(record)
        self._sum(record)
        self._advance()

    def _rank(self, record: PoolRecord) -> None:
        """Enter the scores into the window, which holds those of one kind only."""
        if self.ring is None:
            return
        if record.fallen_back == self.audits.fallen_back:
            ranked = record.losses if record.scores is None else record.scores
            self.ring.record(record.pool, ranked)
        if self.audits.add(record.pool, record.agreement) and self._no_scores is not None:
            self.ring.load_state_dict(self._no_scores)

    def _sum(self, record: PoolRecord) -> None:
        totals = self.totals.add(record)
        if totals.num_nonfinite > self.max_nonfinite_fraction * self.rows_per_epoch:
            self.fail(
                f"{totals.num_nonfinite} of {totals.num_scored} losses in epoch {record.epoch} are "
                f"NaN or infinite, more than scoring.max_nonfinite_fraction="
                f"{self.max_nonfinite_fraction} of an epoch; first ids: "
                f"{list(self.totals.nonfinite)[:10]} (all in nonfinite.json). Lower train.lr, set "
                "train.clip_norm, or look at these rows"
            )

    def fail(self, message: str) -> None:
        """End the run with an error that the driver raises."""
        self.failure = self.failure or message
        self.closed = True

    def raise_failure(self) -> None:
        """Raise what ended the run, if something did."""
        if self.failure is not None:
            raise NonFiniteError(self.failure)

    def scorers(self, generation: int, num_running: int, num_starting: int = 0) -> int | None:
        """Note how many scorers there are; returns how many there should be.

        Args:
            generation: That they serve; of an earlier one the answer is `None`.
            num_running: Scorers that are up.
            num_starting: Further ones that are on their way.
        """
        if self._refuses(generation):
            return None
        # what may be granted follows their number, so that few of them score no older than few do
        more = min(max(num_running - self._sizes[0].num_actors, 0), len(self._sizes) - 1)
        self.limits = self._sizes[more]
        starving = self.num_selected - self.num_consumed < self.limits.global_batch
        return self.hunger.wanted(num_running, num_starting, starving=starving)

    def stepped(
        self,
        generation: int,
        step: int,
        num_consumed: int,
        weights: Any = None,
        oldest: int = 0,
        waited_s: float = 0.0,
    ) -> None:
        """Note that a step is done.

        Args:
            generation: Of the worker group.
            step: Optimizer steps done.
            num_consumed: Rows trained by this generation in all.
            weights: Where scorers find the weights of that step; needed when `limits.due` says so,
                and taken from every step once scoring has fallen back.
            oldest: All pools before this one are trained: they may be forgotten.
            waited_s: Seconds that this generation's steps have waited for rows in all.
        """
        if generation != self.generation or step <= self.step:
            return
        self.hunger.stepped(waited_s)
        self.step, self.num_consumed = step, num_consumed
        self.forget(oldest)
        fresh = weights is not None and self.audits.fallen_back
        if fresh or self.limits.due(step, self.weights_step):
            self.weights_step, self.weights = step, weights

    def cursor(self, trained: Mapping[int, Ids]) -> Cursor:
        """Where training stands.

        Args:
            trained: Ids of the rows of each pool that were trained since `open`; of pools that were
                forgotten none are needed.
        """
        left = {q: n - len(trained.get(q, ())) for q, n in sorted(self.selected.items())}
        low = self.low
        while left.get(low, 1) <= 0:
            low += 1
        waiting = {
            q: waiting_of(
                self.selected[q],
                self.rows.get(q),
                trained.get(q, NO_IDS),
                self.trained_before.get(q, NO_IDS),
            )
            for q in left
            if q >= low and left[q] > 0
        }
        return Cursor(low, tuple(q for q in left if q > low and left[q] <= 0), waiting)

    def forget(self, low: int) -> None:
        """Drop what is known of pools that are trained: before this one all are."""
        if low <= self.low:
            return
        self.low = low
        for known in (self.selected, self.totals.pools, self.rows, self.trained_before):
            for pool in [q for q in known if q < low]:
                del known[pool]

    def _advance(self) -> None:
        while self.oldest_unscored in self.selected:
            self.oldest_unscored += 1
        horizon = self.oldest_unscored - _MEMORY * (self.limits.window or 1)
        for pool in [q for q in self.grants if q < horizon]:
            del self.grants[pool]

    def _refuses(self, generation: int) -> bool:
        return self.closed or generation != self.generation

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """What the live line shows, and the sums of an epoch that may be over for long."""
        return {
            "generation": self.generation,
            "step": self.step,
            "oldest_unscored": self.oldest_unscored,
            "num_pools": self.num_pools,
            "asked": self.asked,
            "waiting_rows": self.num_selected - self.num_consumed,
            "global_batch": self.limits.global_batch,
            "num_scored": self.totals.num_scored,
            "reserved": dict(self.reserved),
            "failure": self.failure,
            "audits": self.audits.metrics(),
            "epochs": self.totals.newest(also=epoch),
            "scorers": self.hunger.metrics(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Losses and sums, for a checkpoint; the cursor is the trainer's to add."""
        return {
            "version": VERSION,
            "ring": None if self.ring is None else self.ring.state_dict(),
            **self.totals.state_dict(),
            "audits": self.audits.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over losses and sums of a checkpoint."""
        if state["version"] != VERSION:
            raise ValueError(
                f"ledger state of version {state['version']}; this raysb reads {VERSION}"
            )
        if self.ring is not None and state["ring"] is not None:
            self.ring.load_state_dict(state["ring"])
        self.totals.load_state_dict(state)
        if "audits" in state:  # not of a run that began before there were any
            self.audits.load_state_dict(state["audits"])
