"""The ledger as an actor, and the handle through which scorers, readers and workers reach it.

Who asks for a pool that may not be scored yet sleeps in the actor's event loop and wakes with the
call that frees it: nothing polls, and a caller that dies leaves nothing behind.
"""

import asyncio
from typing import Any, cast

import ray

from raysb.scoring.ledger import Cursor, Grant, Ledger, PoolRecord, Refusal
from raysb.scoring.limits import Limits


class LedgerService:
    """The actor behind `LedgerClient`: a `Ledger` whose refusals to wait are waited for here."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._changed = asyncio.Condition()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, ask: Any) -> Any:
        async with self._changed:
            while (answer := ask()) is Refusal.WAIT:
                await self._changed.wait()
        return answer

    async def open(self, *args: Any) -> int:
        """See `Ledger.open`."""
        generation = self._ledger.open(*args)
        await self._tell()
        return generation

    async def close(self, generation: int) -> None:
        """See `Ledger.close`."""
        self._ledger.close(generation)
        await self._tell()

    async def admit(self, generation: int, pool: int, lead: int) -> bool:
        """Sleep until a pool may be read; False when the run is over."""
        answer = await self._until(lambda: self._ledger.admit(generation, pool, lead))
        return answer is None

    async def grant(self, generation: int, pool: int, num_rows: int) -> Grant | None:
        """Sleep until a pool may be scored; `None` when the run is over."""
        answer = await self._until(lambda: self._ledger.grant(generation, pool, num_rows))
        return None if answer is Refusal.CLOSED else answer

    async def scored(self, generation: int, record: PoolRecord) -> None:
        """See `Ledger.scored`."""
        self._ledger.scored(generation, record)
        await self._tell()

    async def stepped(self, generation: int, step: int, num_consumed: int, weights: Any) -> None:
        """See `Ledger.stepped`."""
        self._ledger.stepped(generation, step, num_consumed, weights)
        await self._tell()

    async def fail(self, message: str) -> None:
        """See `Ledger.fail`."""
        self._ledger.fail(message)
        await self._tell()

    async def cursor(self, consumed: dict[int, int]) -> Cursor:
        """See `Ledger.cursor`."""
        return self._ledger.cursor(consumed)

    async def forget(self, low: int) -> None:
        """See `Ledger.forget`."""
        self._ledger.forget(low)

    async def progress(self) -> dict[str, Any]:
        """See `Ledger.progress`."""
        return self._ledger.progress()

    async def nonfinite(self) -> dict[int, int]:
        """Ids whose loss was not finite, with how often."""
        return self._ledger.nonfinite

    async def state_dict(self) -> dict[str, Any]:
        """See `Ledger.state_dict`."""
        return self._ledger.state_dict()

    async def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Ledger.load_state_dict`."""
        self._ledger.load_state_dict(state)


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
        return cls(actor.options(num_cpus=0, max_concurrency=1000).remote(ledger))

    def open(
        self,
        limits: Limits,
        cursor: Cursor,
        num_pools: int,
        step: int,
        weights: Any = None,
        epoch_pools: int | None = None,
    ) -> int:
        """Begin a generation; returns its number."""
        opened = self._actor.open.remote(limits, cursor, num_pools, step, weights, epoch_pools)
        return cast(int, ray.get(opened))

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

    def stepped(self, generation: int, step: int, num_consumed: int, weights: Any = None) -> None:
        """Report a step, without waiting."""
        self._actor.stepped.remote(generation, step, num_consumed, weights)

    def fail(self, message: str) -> None:
        """End the run with an error that the driver raises."""
        ray.get(self._actor.fail.remote(message))

    def cursor(self, consumed: dict[int, int]) -> Cursor:
        """Where training stands."""
        return cast(Cursor, ray.get(self._actor.cursor.remote(consumed)))

    def forget(self, low: int) -> None:
        """Drop what a committed checkpoint has behind it."""
        self._actor.forget.remote(low)

    def progress(self) -> dict[str, Any]:
        """What the live line shows."""
        return cast(dict[str, Any], ray.get(self._actor.progress.remote()))

    def nonfinite(self) -> dict[int, int]:
        """Ids whose loss was not finite, with how often."""
        return cast(dict[int, int], ray.get(self._actor.nonfinite.remote()))

    def state_dict(self) -> dict[str, Any]:
        """Losses and sums, for a checkpoint."""
        return cast(dict[str, Any], ray.get(self._actor.state_dict.remote()))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over losses and sums of a checkpoint."""
        ray.get(self._actor.load_state_dict.remote(state))
