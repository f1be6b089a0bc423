"""The board: one small actor that holds named, versioned values for every part of a run.

Writers replace a value, readers ask for one that is new enough and sleep until there is one. Each
worker finds its split of the stream here, and the driver the lines of metrics.
"""

import asyncio
from typing import Any, cast

import ray

from raysb.placement import beside_driver


class BoardState:
    """The actor behind `Board`; values are whatever Ray can pass."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[int, Any]] = {}
        self._lines: dict[str, list[Any]] = {}
        self._changed = asyncio.Condition()

    async def put(self, name: str, version: int, value: Any) -> None:
        """Replace a value, if the version is not older than the one held."""
        if name in self._values and self._values[name][0] > version:
            return
        self._values[name] = (version, value)
        async with self._changed:
            self._changed.notify_all()

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

    async def append(self, name: str, line: Any) -> None:
        """Add a line to a log that somebody drains."""
        self._lines.setdefault(name, []).append(line)

    async def drain(self, name: str) -> list[Any]:
        """Take all lines of a log."""
        return self._lines.pop(name, [])


class Board:
    """Handle of the board; passes between processes.

    Args:
        actor: Handle of the actor.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def start(cls) -> "Board":
        """Start the actor."""
        actor: Any = ray.remote(BoardState)
        options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": beside_driver()}
        return cls(actor.options(**options).remote())

    def put(self, name: str, version: int, value: Any) -> None:
        """Replace a value, without waiting: who needs this version waits in `get`."""
        self._actor.put.remote(name, version, value)

    def get(self, name: str, at_least: int = 0) -> tuple[int, Any]:
        """Return (version, value), waiting for a version of at least `at_least`."""
        return cast(tuple[int, Any], ray.get(self._actor.get.remote(name, at_least)))

    def version(self, name: str) -> int:
        """Version of the value that is there now, -1 where there is none."""
        return cast(int, ray.get(self._actor.version.remote(name)))

    def ping(self) -> None:
        """Return if the actor is there."""
        self.version("")

    def append(self, name: str, line: Any) -> None:
        """Add a line to a log, without waiting."""
        self._actor.append.remote(name, line)

    def drain(self, name: str) -> list[Any]:
        """Take all lines of a log."""
        return cast(list[Any], ray.get(self._actor.drain.remote(name)))
