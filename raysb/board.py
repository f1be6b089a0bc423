"""The board: one small actor that holds named, versioned values for every part of a run.

Writers replace a value, readers ask for one that is new enough and sleep until there is one. Each
worker finds its split of the stream here, and the driver the lines of metrics.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast
from uuid import uuid4

import ray

from raysb.placement import SLEEPERS, beside_driver
from raysb.precedence import step_back

_UNDER_WAY = 100  # lines; what was sent before them has long come


class BoardState:
    """The actor behind `Board`; values are whatever Ray can pass."""

    def __init__(self) -> None:
        step_back()
        self._values: dict[str, tuple[int, Any]] = {}
        self._lines: dict[str, list[Any]] = {}
        self._early: dict[tuple[str, str], dict[int, Any]] = {}  # by log and sender
        self._due: dict[tuple[str, str], int] = {}  # number of the sender's next line
        self._appended: dict[str, int] = {}
        self._taken: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def put(self, name: str, version: int, value: Any) -> None:
        """Replace a value, if the version is not older than the one held."""
        if name in self._values and self._values[name][0] > version:
            return
        self._values[name] = (version, value)
        await self._wake()

    async def get(self, name: str, at_least: int) -> tuple[int, Any]:
        """Wait until the value's version is at least the given one."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: name in self._values and self._values[name][0] >= at_least
            )
        return self._values[name]

    async def version(self, name: str) -> int:
        """Version of a value, -1 where there is none."""
        return self._values.get(name, (-1, None))[0]

    async def forget(self, prefix: str) -> None:
        """Drop the values whose names begin so."""
        await self.take(prefix)

    async def take(self, prefix: str) -> list[Any]:
        """Drop the values whose names begin so, and return them."""
        names = [name for name in self._values if name.startswith(prefix)]
        return [self._values.pop(name)[1] for name in names]

    async def append(self, name: str, sender: str, number: int, line: Any) -> None:
        """Add a line to a log that somebody drains, after the sender's lines of lower numbers.

        Ray begins the calls of an asynchronous actor in any order.
        """
        early = self._early.setdefault((name, sender), {})
        early[number] = line
        due = self._due.get((name, sender), 0)
        while due in early:
            self._lines.setdefault(name, []).append(early.pop(due))
            due += 1
        self._due[name, sender] = due
        self._appended[name] = self._appended.get(name, 0) + 1
        await self._wake()

    async def drain(self, name: str, wait_s: float) -> list[Any]:
        """Take all lines of a log, waiting a while for the first."""
        await self._until(lambda: bool(self._lines.get(name)), wait_s)
        return self._lines.pop(name, [])

    async def done(self, name: str, count: int) -> None:
        """Note that so many more lines are where they belong."""
        self._taken[name] = self._taken.get(name, 0) + count
        await self._wake()

    async def flush(self, name: str, limit_s: float) -> bool:
        """Wait until all lines that are in a log now are where they belong."""
        wanted = self._appended.get(name, 0)
        return await self._until(lambda: self._taken.get(name, 0) >= wanted, limit_s)

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(limit_s), self._changed:
                await self._changed.wait_for(condition)
        return condition()


class Board:
    """Handle of the board; passes between processes.

    Args:
        actor: Handle of the actor.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._sender = uuid4().hex
        self._numbers: dict[str, int] = {}
        self._sent: deque[Any] = deque(maxlen=_UNDER_WAY)

    @classmethod
    def start(cls) -> "Board":
        """Start the actor."""
        actor: Any = ray.remote(BoardState)
        options = {"max_concurrency": SLEEPERS, "scheduling_strategy": beside_driver()}
        return cls(actor.options(num_cpus=0, **options).remote())

    def __reduce__(self) -> tuple[type["Board"], tuple[Any]]:
        return Board, (self._actor,)  # lines under way stay with the process that sent them

    def put(self, name: str, version: int, value: Any, *, wait: bool = False) -> None:
        """Replace a value, without waiting: who needs this version waits in `get`.

        Args:
            name: Of the value.
            version: An older one than is held changes nothing.
            value: Whatever Ray can pass.
            wait: Return when it is there.
        """
        put = self._actor.put.remote(name, version, value)
        if wait:
            ray.get(put)

    def get(self, name: str, at_least: int = 0) -> tuple[int, Any]:
        """Return (version, value), waiting for a version of at least `at_least`."""
        return cast(tuple[int, Any], ray.get(self._actor.get.remote(name, at_least)))

    def version(self, name: str) -> int:
        """Version of the value that is there now, -1 where there is none."""
        return cast(int, ray.get(self._actor.version.remote(name)))

    def forget(self, prefix: str) -> None:
        """Drop the values whose names begin so; returns when they are gone."""
        ray.get(self._actor.forget.remote(prefix))

    def take(self, prefix: str) -> list[Any]:
        """Drop the values whose names begin so, and return them, in the order they came."""
        return cast(list[Any], ray.get(self._actor.take.remote(prefix)))

    def ping(self) -> None:
        """Return if the actor is there."""
        self.version("")

    def append(self, name: str, line: Any) -> None:
        """Add a line to a log, without waiting; lines of one process keep their order."""
        number = self._numbers.get(name, 0)
        self._numbers[name] = number + 1
        self._sent.append(self._actor.append.remote(name, self._sender, number, line))

    def drain(self, name: str, wait_s: float = 0.0) -> list[Any]:
        """Take all lines of a log, where there are none after a wait; tell of them by `done`."""
        return cast(list[Any], ray.get(self._actor.drain.remote(name, wait_s)))

    def done(self, name: str, count: int) -> None:
        """Tell that so many lines of a log are written: who waits in `flush` goes on."""
        self._actor.done.remote(name, count)

    def flush(self, name: str, limit_s: float) -> bool:
        """Wait until the lines appended here so far are written; whether they are, by then."""
        while self._sent:  # else `flush` might come before them
            ray.get(self._sent.popleft())
        return cast(bool, ray.get(self._actor.flush.remote(name, limit_s)))

    def kill(self) -> None:
        """End the actor: whoever waits for it gets an error."""
        ray.kill(self._actor)
