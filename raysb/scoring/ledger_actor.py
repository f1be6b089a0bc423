"""The ledger as an actor, and the handle through which scorers, readers and workers reach it.

Who asks for a pool that may not be scored yet sleeps in the actor's event loop and wakes with the
call that frees it: nothing polls, and a caller that dies leaves nothing behind.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import ray

from raysb.placement import SLEEPERS, beside_driver
from raysb.precedence import step_back
from raysb.schema import Ids
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits
from raysb.scoring.records import Grant, PoolRecord, Refusal


class LedgerService:
    """The actor behind `LedgerClient`: a `Ledger` whose refusals to wait are waited for here."""

    def __init__(self, ledger: Ledger) -> None:
        step_back()
        self._ledger = ledger
        self._changed = asyncio.Condition()
        self._asleep: dict[str, list[int]] = {"admit": [], "grant": []}  # pools that are asked for

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, what: str, pool: int, ask: Any) -> Any:
        asleep = self._asleep[what]
        asleep.append(pool)
        try:
            async with self._changed:
                while (answer := ask()) is Refusal.WAIT:
                    await self._changed.wait()
        finally:
            asleep.remove(pool)
        return answer

    async def open(self, *args: Any) -> int:
        """See `Ledger.open`."""
        generation = self._ledger.open(*args)
        await self._tell()
        return generation

    async def reader_is_up(self, generation: int) -> None:
        """See `Ledger.reader_is_up`."""
        self._ledger.reader_is_up(generation)

    async def close(self, generation: int) -> None:
        """See `Ledger.close`."""
        self._ledger.close(generation)
        await self._tell()

    async def admit(self, generation: int, pool: int, lead: int) -> bool:
        """Sleep until a pool may be read; False when the run is over."""
        answer = await self._until(
            "admit", pool, lambda: self._ledger.admit(generation, pool, lead)
        )
        return answer is None

    async def grant(self, generation: int, pool: int, num_rows: int) -> Grant | None:
        """Sleep until a pool may be scored; `None` when the run is over."""
        answer = await self._until(
            "grant", pool, lambda: self._ledger.grant(generation, pool, num_rows)
        )
        return None if answer is Refusal.CLOSED else answer

    async def scored(self, generation: int, record: PoolRecord) -> None:
        """See `Ledger.scored`."""
        self._ledger.scored(generation, record)
        await self._tell()

    async def stepped(self, *args: Any) -> None:
        """See `Ledger.stepped`."""
        self._ledger.stepped(*args)
        await self._tell()

    async def scorers(self, *args: int) -> int | None:
        """See `Ledger.scorers`."""
        before = self._ledger.limits
        wanted = self._ledger.scorers(*args)
        if self._ledger.limits != before:
            await self._tell()
        return wanted

    async def fail(self, message: str) -> None:
        """See `Ledger.fail`."""
        self._ledger.fail(message)
        await self._tell()

    async def saved(self, trained: dict[int, Ids], oldest: int) -> tuple[Cursor, dict[str, Any]]:
        """See `Ledger.cursor` and `Ledger.state_dict`: both of one moment."""
        self._ledger.forget(oldest)  # the worker may have, before it told
        return self._ledger.cursor(trained), self._ledger.state_dict()

    async def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """See `Ledger.progress`."""
        return self._ledger.progress(epoch) | {
            "asleep": {what: sorted(pools) for what, pools in self._asleep.items()}
        }

    async def nonfinite(self) -> dict[int, int]:
        """Ids whose loss was not finite, with how often."""
        return self._ledger.totals.nonfinite


class LedgerClient:
    """Handle of the ledger; passes between processes.

    Methods as in `Ledger`, without waiting where nothing is returned.

    Args:
        actor: Handle of the actor.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls, ledger: Ledger) -> "LedgerClient":
        """Start the actor around a ledger."""
        actor: Any = ray.remote(LedgerService)
        options = {"max_concurrency": SLEEPERS, "scheduling_strategy": beside_driver()}
        return cls(actor.options(num_cpus=0, **options).remote(ledger))

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
        """Begin a generation; returns its number."""
        opened = self._actor.open.remote(
            limits, cursor, num_pools, step, weights, epoch_pools, state, grown
        )
        return cast(int, ray.get(opened))

    def reader_is_up(self, generation: int) -> None:
        """Tell that a reader has found its place, without waiting."""
        self._actor.reader_is_up.remote(generation)

    def close(self, generation: int) -> None:
        """Grant nothing more."""
        ray.get(self._actor.close.remote(generation))

    def admit(self, generation: int, pool: int, lead: int) -> bool:
        """Wait until a pool may be read; False when the run is over."""
        return cast(bool, ray.get(self._actor.admit.remote(generation, pool, lead)))

    def grant(self, generation: int, pool: int, num_rows: int) -> Grant | None:
        """Wait until a pool may be scored; `None` when the run is over."""
        answer = ray.get(self._actor.grant.remote(generation, pool, num_rows))
        return cast(Grant | None, answer)

    def scored(self, generation: int, record: PoolRecord) -> None:
        """Report a pool, and wait: its rows may not arrive before the ledger counts them."""
        ray.get(self._actor.scored.remote(generation, record))

    def stepped(
        self,
        generation: int,
        step: int,
        num_consumed: int,
        weights: Any = None,
        oldest: int = 0,
        waited_s: float = 0.0,
    ) -> None:
        """Report a step, without waiting."""
        self._actor.stepped.remote(generation, step, num_consumed, weights, oldest, waited_s)

    def scorers(self, generation: int, num_running: int, num_starting: int) -> Any:
        """Report how many scorers there are; returns a reference to how many there should be."""
        return self._actor.scorers.remote(generation, num_running, num_starting)

    def fail(self, message: str) -> None:
        """End the run with an error that the driver raises."""
        ray.get(self._actor.fail.remote(message))

    def saved(self, trained: dict[int, Ids], oldest: int) -> tuple[Cursor, dict[str, Any]]:
        """Where training stands and what is known there, for a checkpoint.

        Args:
            trained: Ids of the rows trained of each pool, from `oldest` on.
            oldest: All pools before this one are trained.
        """
        saved = self._actor.saved.remote(trained, oldest)
        return cast(tuple[Cursor, dict[str, Any]], ray.get(saved))

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """See `Ledger.progress`."""
        return cast(dict[str, Any], ray.get(self._actor.progress.remote(epoch)))

    def nonfinite(self, limit_s: float) -> dict[int, int]:
        """Ids whose loss was not finite, with how often; waits for so long at most."""
        return cast(dict[int, int], ray.get(self._actor.nonfinite.remote(), timeout=limit_s))

    def kill(self) -> None:
        """End the actor: whoever waits for it gets an error."""
        ray.kill(self._actor)
