"""The number of scorers follows the trainers' hunger, in the process that schedules the stream.

Ray Data scales a pool of actors by the share of its task slots that are taken. A scorer asleep in
the ledger's gate has its tasks too, so that signal is at its top exactly when the trainers have
rows enough. Here Ray is told never to scale by itself, and the ledger is asked once a second how
many scorers there should be (`scoring.hunger`).

A scorer is added where a machine has room for it, and taken away only when it has no task: so no
row is lost or scored twice. Scorers that wait in the gate always have tasks; while there are too
many, no more tasks are given out than scorers should remain, and who has none then goes.

Where machines come and go too, the cluster's autoscaler is asked for room for as many scorers as
there should be, by all that they take, custom resources among it. Ray Data would ask by its own
signal, for CPUs and GPUs alone.

The hooks are private or for developers: where Ray has renamed them, the number stays as it is.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.data._internal.actor_autoscaler.autoscaling_actor_pool import ActorPoolScalingRequest
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.context import AutoscalingConfig

from raysb.placement import READER_CPUS, READER_SHARE, amounts
from raysb.scoring.ledger_actor import LedgerClient
from raysb.scoring.settings import Scoring

ORDERS = "raysb/scorers"  # key of the configuration that travels with an execution
ASK_EVERY_S = 1.0
RENEW_EVERY_S = 60.0  # Ray forgets what was asked of the autoscaler after 180 s
_HOOKS = ("_data_context", "_topology", "_backpressure_policies")
_SCORERS = ("PoolScorer", "ReadingScorer")  # Ray names an operator after its class


@dataclass(frozen=True)
class Orders:
    """Whom to ask, and what a scorer takes.

    Args:
        ledger: Knows how many scorers there should be.
        generation: Of the worker group that they serve.
        needs: What Ray gives to each scorer, by name.
        beside: What it gives to each of the readers, which lie on the same machines.
    """

    ledger: LedgerClient
    generation: int
    needs: Mapping[str, float]
    beside: Sequence[Mapping[str, float]] = ()

    @classmethod
    def of(
        cls, scoring: Scoring, ledger: LedgerClient, generation: int, num_readers: int = 0
    ) -> "Orders":
        """The orders for scorers of these settings."""
        own = {"CPU": scoring.num_cpus, "GPU": scoring.num_gpus}
        reader = {"CPU": READER_CPUS} | amounts(scoring.resources, READER_SHARE)
        needs = own | amounts(scoring.resources)
        return cls(ledger, generation, needs, (reader,) * num_readers)


def by_itself_never() -> Any:
    """Settings with which Ray Data scales no pool of actors between its sizes."""
    return AutoscalingConfig(
        actor_pool_util_upscaling_threshold=1e9, actor_pool_util_downscaling_threshold=-1.0
    )


class ScorerPool(ExecutionCallback):
    """Tells the ledger how many scorers there are, and makes them as many as it wants."""

    _orders: Orders | None = None

    def before_execution_starts(self, executor: Any) -> None:
        """Find the scorers; called by Ray Data."""
        if not all(hasattr(executor, name) for name in _HOOKS):
            return
        orders = executor._data_context.get_config(ORDERS)
        found = [op for op in executor._topology if any(name in op.name for name in _SCORERS)]
        if orders is None or not found:
            return
        self._op = found[0]
        (self._pool,) = self._op.get_autoscaling_actor_pools()
        self._orders, self._wanted = orders, self._pool.min_size()
        self._asked: Any = None
        self._next = 0.0
        self._machines = Machines(getattr(executor, "_cluster_autoscaler", None))
        executor._backpressure_policies.append(_Draining(self))

    def on_execution_step(self, executor: Any) -> None:
        """Ask, listen, scale; called by Ray Data every few hundredths of a second. Never waits."""
        if self._orders is None:
            return
        self._listen(self._orders)
        now = time.monotonic()
        if self._asked is None and now >= self._next:
            self._next = now + ASK_EVERY_S
            running, starting = self._pool.num_alive_actors(), self._pool.num_pending_actors()
            self._asked = self._orders.ledger.scorers(self._orders.generation, running, starting)
            self._grow(self._orders.needs)
        self._shrink()

    def _listen(self, orders: Orders) -> None:
        if self._asked is None or not ray.wait([self._asked], timeout=0)[0]:
            return
        with suppress(ray.exceptions.RayError):  # of a ledger that is gone: it is told elsewhere
            wanted = ray.get(self._asked)
            self._wanted = self._pool.current_size() if wanted is None else wanted
        self._asked = None
        self._machines.ask([*[orders.needs] * self._wanted, *orders.beside])

    def _grow(self, needs: Mapping[str, float]) -> None:
        fixed = self._pool.min_size() == self._pool.max_size()
        if fixed or getattr(self._op, "_inputs_complete", False):
            return  # at the end Ray lets scorers go that have nothing left to do
        more = self._wanted - self._pool.current_size()
        if more > 0 and (fit := min(more, room_for(needs, free_on_nodes()))) > 0:
            reason = "trainers wait for rows"
            self._pool.scale(ActorPoolScalingRequest.upscale(delta=fit, reason=reason))

    def _shrink(self) -> None:
        """Let scorers without a task go, and those that have not begun."""
        fewer = self._pool.current_size() - self._wanted
        if fewer > 0:
            # by force: not later, because one was added a while ago. Busy ones stay all the same
            self._pool.scale(
                ActorPoolScalingRequest.downscale(
                    delta=-fewer, force=True, reason="trainers do not wait for rows"
                )
            )

    def may_take(self, op: Any) -> bool:
        """Whether an operator may be given one more task."""
        if op is not self._op or self._pool.current_size() <= self._wanted:
            return True
        return bool(self._pool.num_tasks_in_flight() < self._wanted)


class _Draining:
    """Ray Data's interface of backpressure, for a pool that is to have fewer actors."""

    name = "fewer scorers"

    def __init__(self, scorers: ScorerPool) -> None:
        self._scorers = scorers

    def can_add_input(self, op: Any) -> bool:
        """Asked by Ray Data before it gives a task to an operator."""
        return self._scorers.may_take(op)

    def max_task_output_bytes_to_read(self, op: Any) -> int | None:
        """No limit."""
        return None


class Machines:
    """Asks the cluster's autoscaler for machines, in the place of Ray Data's rule.

    Where there is no autoscaler nobody listens.

    Args:
        autoscaler: Ray Data's, through which it asks; `None`: nothing is asked.
    """

    def __init__(self, autoscaler: Any) -> None:
        self._send = getattr(autoscaler, "_send_resource_request", None)  # private
        self._sent: list[Mapping[str, float]] | None = None
        self._renew_at = 0.0
        if self._send is not None:
            autoscaler.try_trigger_scaling = lambda: None

    def ask(self, processes: list[Mapping[str, float]]) -> None:
        """Ask for room for all of these processes, unless that was asked a moment ago."""
        now = time.monotonic()
        if self._send is None or (processes == self._sent and now < self._renew_at):
            return
        self._sent, self._renew_at = processes, now + RENEW_EVERY_S
        self._send([{kind: n for kind, n in each.items() if n > 0} for each in processes])


def free_on_nodes() -> list[dict[str, float]]:
    """What is not taken now of each machine, by kind."""
    try:
        from ray._private.state import available_resources_per_node
    except ImportError:  # private
        return [ray.available_resources()]  # type: ignore[no-untyped-call]
    return list(available_resources_per_node().values())  # type: ignore[no-untyped-call]


def room_for(needs: Mapping[str, float], nodes: list[dict[str, float]]) -> int:
    """How many processes fit beside what runs.

    Args:
        needs: Of each process, by kind.
        nodes: What is not taken of each machine, by kind.
    """
    asked = {kind: amount for kind, amount in needs.items() if amount > 0}
    if not asked:
        return 10_000  # nothing is asked for: the most that are allowed are the bound
    fits = (
        min((node.get(k, 0.0) + 1e-6) // amount for k, amount in asked.items()) for node in nodes
    )
    return int(sum(fits))
