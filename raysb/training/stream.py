"""The Ray end of the stream: one streaming execution from pool numbers to batches of every worker.

Worker 0 builds the execution when its loop starts to iterate, since only then are batch size,
epochs, the number of workers and the cursor of a checkpoint known; the others take their split from
the board. The flow starts as pool numbers, not as read tasks: Ray would put every read task into
the object store before the first one runs (182 s for 1e5 pools, against 6 s for 1e6 numbers).
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import torch
from torch import nn

from raysb.errors import NonFiniteError, RaysbError, ResourceError, StreamOrderError
from raysb.history.shards import LossHistory
from raysb.history.table import LossTable
from raysb.interrupt import stop_name
from raysb.placement import READER_CPUS, READER_SHARE, amounts
from raysb.schema import POOL, Batch, Floats, Ids, Published
from raysb.scoring.cursor import Cursor
from raysb.scoring.limits import Limits
from raysb.source.plan import PoolPlan
from raysb.training.batch_stream import BatchStream
from raysb.training.exchange import Exchange
from raysb.training.precision import full_float32
from raysb.training.reader_pool import ReaderPool
from raysb.training.scorer_pool import ORDERS, Orders, ScorerPool, by_itself_never
from raysb.training.small_pools import SmallPools, for_small_pools, is_bounded
from raysb.training.stages import (
    Flow,
    PoolReader,
    PoolScorer,
    ReadingScorer,
    StreamHandle,
    outlook_name,
    outlooks_of,
)
from raysb.training.teller import Step, Teller
from raysb.weights import FlatState, WeightStore

START_LIMIT_S = 120
LOOK_EVERY_S = 5  # while there are no rows
IN_FLIGHT = 2  # pools at an actor
BACKWARD_STEPS = 8  # whose losses go to the history at once: a call costs .3 ms
# Of steps: a call takes 1 ms of the trainer's process, and 1.5 of the ledger's. Where nothing is
# scored no weights wait to be told of, and readers go on when a whole pool is trained.
TELL_EVERY_S, TELL_UNSCORED_EVERY_S = 0.02, 0.2
_END = object()


def get_stream(name: str = "train", **options: Any) -> "RayStream":
    """The stream of that name, inside a Ray Train worker, as `ray.train.get_dataset_shard`.

    Args:
        name: As given to `SelectiveStream(name=...)`.
        options: `device`, by default the worker's own.
    """
    handle: Any = ray.train.get_dataset_shard(name)
    if not isinstance(handle, StreamHandle):
        raise StreamOrderError(
            f"get_stream({name!r}): this is a {type(handle).__name__}, not a stream; give the "
            "trainer **stream.trainer_kwargs()"
        )
    if "device" not in options:
        options["device"] = worker_device()
    return RayStream(handle, **options)


def worker_device() -> torch.device:
    """The device that Ray Train gave this worker."""
    import ray.train.torch

    return ray.train.torch.get_device()


class RayStream(BatchStream):
    """Selected rows, from this worker's split of the execution.

    Args:
        handle: The stream's actors.
        device: Where the batches' tensors go.
        on_step: See `BatchStream`.
    """

    def __init__(
        self,
        handle: StreamHandle,
        *,
        device: torch.device | str = "cpu",
        on_step: Callable[[int, int, Batch], None] | None = None,
    ) -> None:
        self._handle = handle
        super().__init__(handle.get_spec(), device=device, on_step=on_step)
        self._weights: WeightStore | None = None
        self._split: Any = None
        self._backward: list[tuple[Ids, Floats, Ids]] = []  # of the last steps, not yet sent
        self._restored: Mapping[str, Any] | None = None  # a checkpoint to begin from
        self._history: LossHistory | None = None  # as this generation writes to it
        self._untold = False  # the last step was kept back

    # --- opening -------------------------------------------------------------------------------

    def _open(self, batch_size: int, epochs: int, model: nn.Module | None) -> PoolPlan:
        if model is None and self.num_steps and self.spec.scored:
            raise ValueError(
                f"iter_batches(model=None) after load_state_dict of step {self.num_steps}: scorers "
                "would rank rows by the builder's untrained weights; give model=..., with the "
                "weights of that step"
            )
        self.exchange = Exchange()
        plan = self.spec.plan(batch_size, epochs)
        self._consumed_before = self.num_backpropped
        self._hurried_at = self.oldest  # as far as all pools are trained
        self._outlooks_from = plan.epoch_of(self.cursor.low)
        self._limits, *grown = self.spec.limits_as_grown(batch_size, self.exchange.world_size)
        self._published_at = self.num_steps
        if self.exchange.rank == 0:
            known = self._restored or self._nothing_known()
            self._generation = self._handle.ledger.open(
                self._limits,
                self.cursor,
                plan.num_pools,
                self.num_steps,
                self._first(model),
                plan.pools_per_epoch if self.spec.awaits_epochs else None,
                known["ledger"],
                grown,
            )
            self._restore_past(known)
            pause_s = TELL_EVERY_S if self.spec.scored else TELL_UNSCORED_EVERY_S
            pause_s = 0.0 if self._limits.lockstep else pause_s
            self._teller = Teller(
                self._handle.ledger, self._generation, pause_s, asks=self._limits.publish_every > 1
            )
            splits = self._build(plan, batch_size, (self._limits, *grown)[-1]).streaming_split(
                self.exchange.world_size, equal=False, locality_hints=None
            )
            # by reference: whoever holds the iterators themselves must import Ray Data
            self._handle.board.put(self._key(), self._generation, [ray.put(splits)])
        self._restored = None
        self._generation = self.exchange.gather_objects(getattr(self, "_generation", None))[0]
        if self._handle.history is not None:
            self._history = self._handle.history.of(self._generation)
        _, (reference,) = self._handle.board.get(self._key(), at_least=self._generation)
        self._split = ray.get(reference)[self.exchange.rank]
        return plan

    def _key(self) -> str:
        return f"splits/{self._handle.name}"

    def _first(self, model: nn.Module | None) -> Published | None:
        """The weights of this generation's first scores."""
        if not self.spec.scored:
            return None
        if model is not None:
            self._weights = WeightStore(live=FlatState(model))
            return self._weights.publish(self.num_steps)
        return WeightStore(live=FlatState(self.task.build(self.spec.seed))).publish(self.num_steps)

    def _build(self, plan: PoolPlan, batch_size: int, most: Limits) -> Any:
        """Pool numbers -> rows -> selected rows, as one lazy Ray Data execution.

        Args:
            plan: The pools of the run.
            batch_size: Rows per worker and step, B.
            most: The limits of the most scorers that there may be.
        """
        spec, scoring = self.spec, self.spec.scoring
        numbers = pa.table({POOL: np.arange(self.cursor.low, plan.num_pools, dtype=np.int64)})
        flow: Any = ray.data.from_blocks([numbers])  # from_arrow asks a task what is in it
        context = flow.context  # its own: other data sets of this process stay as they are
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True  # a DataError stays one
        context.custom_execution_callback_classes = [SmallPools, ReaderPool, ScorerPool]
        context.autoscaling_config = by_itself_never()
        bounded = is_bounded(
            most,
            pool_rows=plan.pool_rows,
            num_readers=spec.num_readers,
            row_bytes=spec.row_bytes,
            store_bytes=ray.cluster_resources().get("object_store_memory", 0.0),  # type: ignore[no-untyped-call]
        )
        alone = self._handle.alone
        for_small_pools(context, scored=spec.scored, bounded=bounded, alone=alone)
        orders = Orders.of(scoring, self._handle.ledger, self._generation, spec.num_readers)
        context.set_config(ORDERS, orders if spec.scored else None)
        flow_of = (Flow(self._handle, plan, self._generation, [ray.put(self.cursor)]),)
        flow = flow.repartition(target_num_rows_per_block=1)
        if spec.num_readers:
            flow = flow.map_batches(
                PoolReader,
                fn_constructor_args=flow_of,
                batch_size=None,
                num_cpus=READER_CPUS,
                resources=amounts(scoring.resources, READER_SHARE),
                compute=pool_of((1, spec.num_readers)),
            )
        if spec.scored:
            flow = flow.map_batches(
                PoolScorer if spec.num_readers else ReadingScorer,
                fn_constructor_args=flow_of,
                batch_size=None,
                num_cpus=scoring.num_cpus,
                num_gpus=scoring.num_gpus or None,
                resources=amounts(scoring.resources),
                compute=pool_of((scoring.min_actors, scoring.max_actors)),
            )
        if self._limits.lockstep:
            # one block is one worker's batch, dealt in turn: steps become a function of counts
            flow = flow.repartition(target_num_rows_per_block=batch_size, strict=True)
        return flow

    # --- rows and steps --------------------------------------------------------------------------

    def _blocks(self) -> Iterator[Batch]:
        arrivals: queue.Queue[Any] = queue.Queue(maxsize=4)
        threading.Thread(target=_pull, args=(self._split, arrivals), daemon=True).start()
        while (block := self._next(arrivals)) is not _END:
            if isinstance(block, BaseException):
                raise user_error(block) from None
            yield block
        failure = self._handle.ledger.progress()["failure"]
        if failure is not None:
            raise NonFiniteError(failure)

    def _next(self, arrivals: "queue.Queue[Any]") -> Any:
        """The next block; an error where Ray would wait for ever for a place to read."""
        if arrivals.empty() and self.exchange.rank == 0:
            self._tell_rest()
            self._teller.hurry()
        for waited in itertools.count(1):
            with suppress(queue.Empty):
                return arrivals.get(timeout=LOOK_EVERY_S)
            if self._handle.board.version(stop_name(self._handle.name)) > 0:
                self._gave_up = True  # no row may ever come; those that wait are in the checkpoint
                return _END
            if waited * LOOK_EVERY_S < START_LIMIT_S or waited % 12:
                continue
            if not self._handle.ledger.progress()["asked"]:
                raise ResourceError(
                    f"no reader has started in {START_LIMIT_S} s: Ray finds no CPU for the "
                    "readers. Lower scoring.num_cpus, scoring.num_actors or train.num_cpus, or "
                    "join a larger cluster"
                )

    def publishes(self) -> bool:
        """Whether the next `step` publishes weights; see `BatchStream.publishes`."""
        return self._due(self.num_steps + 1)

    def _due(self, step: int) -> bool:
        late = self.fallen_back or self._limits.due(step, self._published_at)
        return self.spec.scored and late

    def _has_fallen_back(self) -> bool:
        return self.exchange.rank == 0 and self._teller.fallen_back

    def _publish(self, model: nn.Module) -> None:
        due = self._due(self.num_steps)
        if due:
            self._published_at = self.num_steps
        if self.exchange.rank != 0:
            return
        if self.spec.selector.looks_back:
            self._drop_outlooks()
        if due and self._weights is None:
            self._weights = WeightStore(live=FlatState(model))
        self._untold = due and self._can_wait()
        if not self._untold:
            self._tell(due)
        if not self.spec.scored and self.oldest > self._hurried_at:
            self._hurried_at = self.oldest
            self._teller.hurry()

    def _can_wait(self) -> bool:
        """Whether to tell of one of the next steps will do, or of this one when no rows are left.

        Weights are then not packed that nobody is told of, a twentieth of a step of 2 ms. Not
        beside other workers: one may wait for rows that this very step sets free.
        """
        alone = self.exchange.world_size == 1 and not self._limits.lockstep
        return alone and self._limits.publish_every == 1 and not self._teller.ready

    def _tell(self, due: bool) -> None:
        """Hand over the step that was done, with its weights where these are due."""
        packed = self._weights.pack() if due and self._weights is not None else None
        consumed = self.num_backpropped - self._consumed_before
        waited_s = self.starved_seconds
        self._teller.tell(Step(self.num_steps, consumed, self.oldest, packed, waited_s))

    def _tell_rest(self) -> None:
        """Hand over the last step if it was kept back."""
        if self._untold:
            self._untold = False
            self._tell(due=True)

    def _record_backward(self, ids: Ids, losses: Floats) -> None:
        if self._history is None:
            return
        self._backward.append((ids, losses, np.full(len(ids), self.num_steps)))
        if self._limits.lockstep or len(self._backward) >= BACKWARD_STEPS:
            self._send_backward(self._history)

    def _send_backward(self, history: LossHistory) -> None:
        """Losses of several steps in one call; in lockstep all are there before a step is told."""
        if self._backward:
            history.record_backward(*map(np.concatenate, zip(*self._backward, strict=True)))
            self._backward.clear()
        if self._limits.lockstep:
            history.flush()

    def _close(self) -> None:
        if self._history is not None:
            self._send_backward(self._history)
        if self.exchange.rank != 0:
            return
        try:
            with closing(self._teller):
                if self._turn == "next":  # else the weights may be those of half a step
                    self._tell_rest()
        finally:
            self._handle.ledger.close(self._generation)
            coordinator = getattr(self._split, "_coord_actor", None)
            if coordinator is not None:  # private: without it, what is left flows on, empty
                coordinator.shutdown_executor.remote()

    def _precision(self) -> AbstractContextManager[None]:
        mixed = self.device.type == "cuda" and not self.spec.scoring.num_gpus
        return full_float32() if mixed else super()._precision()

    def _slack(self) -> float:
        return 1.0 if self.spec.scoring.dtype == "float32" else 1e3

    # --- state ---------------------------------------------------------------------------------

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """Sums over the run; see `Ledger.progress`."""
        return self._handle.ledger.progress(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Cursor, counters, sums and history. Collective: call it on every worker.

        Complete on worker 0, which writes the checkpoint.
        """
        if self._history is not None:
            self._send_backward(self._history)
            self._history.flush()
        # collective: once worker 0 has these, the losses of all workers are in the history
        trained, counters = self.all_trained(), self.counters()
        if self.exchange.rank != 0:
            return {"counters": counters}
        cursor, ledger = self._handle.ledger.saved(trained, self.oldest)
        return {
            "cursor": cursor.state_dict(),
            "counters": counters,
            "ledger": ledger,
            "outlooks": self._outlooks(cursor.low),
            "history": None if self._history is None else self._history.state_dict(),
        }

    def _outlooks(self, low: int) -> dict[str, Any]:
        """What the selector looks back at in the epochs that are under way, one after the other."""
        if not self.spec.selector.looks_back:
            return {}
        board, held = self._handle.board, {}
        for epoch in itertools.count(self._plan().epoch_of(low)):
            if board.version(name := self._outlook_name(epoch)) < 0:
                break
            held[str(epoch)] = board.get(name, at_least=epoch)[1]
        return held

    def _drop_outlooks(self) -> None:
        """Free those of epochs that are trained: a reader that asks once more finds `None`."""
        for epoch in range(self._outlooks_from, self.epoch):
            self._handle.board.put(self._outlook_name(epoch), epoch, None)
        self._outlooks_from = max(self._outlooks_from, self.epoch)

    def _outlook_name(self, epoch: int) -> str:
        return outlook_name(self._handle.name, self._generation, epoch)

    def _nothing_known(self) -> dict[str, Any]:
        """What a checkpoint would hold before the first step."""
        history = LossTable().state_dict() if self._handle.history is not None else None
        return {"ledger": self.spec.ledger().state_dict(), "outlooks": {}, "history": history}

    def _restore_past(self, known: Mapping[str, Any]) -> None:
        """Set all that is known to where training stands: what came later is undone."""
        if self._handle.history is not None:
            self._handle.history.of(self._generation).load_state_dict(known["history"])
        if self.spec.selector.looks_back:
            self._handle.board.forget(outlooks_of(self._handle.name))
        for epoch, outlook in known["outlooks"].items():
            self._handle.board.put(self._outlook_name(int(epoch)), int(epoch), outlook)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; before `iter_batches`, on every worker."""
        self.cursor = Cursor.from_state(state["cursor"])
        self.load_counters(state["counters"])
        self._restored = state


def pool_of(size: tuple[int, int]) -> Any:
    """An actor pool that begins with the least of its sizes; a callback says when it grows.

    Two tasks an actor, in threads of their own: the next pool is at hand while one is worked on.
    Not one after the other: Ray replays the calls of a dead actor in any order, and the oldest
    pool would sleep behind one that waits for it.
    """
    return ray.data.ActorPoolStrategy(
        min_size=size[0],
        max_size=size[1],
        initial_size=size[0],
        max_tasks_in_flight_per_actor=IN_FLIGHT,
        max_concurrent_calls_per_actor=IN_FLIGHT,
        enable_true_multi_threading=True,
    )


def _pull(split: Any, arrivals: "queue.Queue[Any]") -> None:
    """Bring blocks of a split, in a thread of its own: the next is there when it is asked for."""
    try:
        for block in split.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"):
            arrivals.put(block)
        arrivals.put(_END)
    except BaseException as error:
        arrivals.put(error)


def user_error(error: BaseException) -> BaseException:
    """The error of raysb's own that Ray has wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaysbError):
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else (seen.__cause__ or seen.__context__)
    return error
