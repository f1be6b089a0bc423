"""The stages as Ray Data runs them: a reader and a scorer, actors that a pool passes through.

Nothing here imports torch before a scorer is made: readers need none, and the process that
schedules both imports this file too. On two cores that is seconds of every start.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data.block import BlockAccessor

from raysb.board import Board
from raysb.collecting import collecting_rarely
from raysb.errors import StreamOrderError
from raysb.history.shards import LossHistory
from raysb.precedence import step_back
from raysb.schema import ID, POOL, Batch, num_rows, take
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger_actor import LedgerClient
from raysb.selection.base import Selector
from raysb.selection.preselection import Outlook
from raysb.source.plan import PoolPlan
from raysb.stacks import leave_stacks
from raysb.training.faults import telling
from raysb.training.memory import keep_freed_pages
from raysb.training.reading import Reading, unscored_record, with_weights

if TYPE_CHECKING:
    from raysb.training.spec import StreamSpec


def as_block(batch: Batch) -> Any:
    """Rows as they go to Ray Data: ragged columns as lists of Arrow.

    Of objects Ray makes a tensor where all rows of a block have one length, and blocks of one
    column would not fit together.
    """
    ragged = [name for name, column in batch.items() if _is_ragged(column)]
    if not ragged:
        return batch
    others = {name: column for name, column in batch.items() if name not in ragged}
    table: Any = BlockAccessor.batch_to_block(others)
    for name in ragged:
        table = table.append_column(name, pa.array(list(batch[name])))
    return table


def _is_ragged(column: npt.NDArray[Any]) -> bool:
    return column.dtype == object and len(column) > 0 and np.ndim(column[0]) == 1


@dataclass(frozen=True)
class StreamHandle:
    """The actors of a stream and what it is made of; passes between processes.

    Args:
        spec: A list of one reference to the `StreamSpec`, so that it travels once per process.
        reading: A list of one reference to its `Reading`, all that a reader needs.
        name: Of the stream.
        ledger: Gate, distribution, cursor.
        board: Weights and splits.
        history: What is known per sample, `None` where nothing is scored.
        stacks: Folder where processes leave a file for their stacks; `None`: they do not.
        alone: The cluster is one of the driver's own.
    """

    spec: list[Any]
    reading: list[Any]
    name: str
    ledger: LedgerClient
    board: Board
    history: LossHistory | None
    stacks: str | None = None
    alone: bool = False

    def can_be_asked(self, role: str) -> None:
        """Let this process write its stacks where the watchdog asks for them."""
        if self.stacks is not None:
            leave_stacks(self.stacks, role)

    def get_spec(self) -> "StreamSpec":
        """Fetch what the stream is made of."""
        return cast("StreamSpec", ray.get(self.spec[0]))

    def get_reading(self) -> Reading:
        """Fetch how rows are read."""
        return cast(Reading, ray.get(self.reading[0]))

    def lost(self) -> str | None:
        """Which of the actors is gone that nothing can replace; `None`: all are there."""
        asked: dict[str, Callable[[], object]] = {
            "the ledger": self.ledger.progress,
            "the board": self.board.ping,
        }
        for name, ask in asked.items():
            try:
                ask()
            except ray.exceptions.RayActorError:
                return name
        return None


class Outlooks:
    """What the selector looks back at, epoch by epoch: made once, and then the same for all.

    The reader of an epoch's first pool makes it when the ledger lets the epoch begin; the others,
    and every replay, find it on the board. It stays there until the epoch is trained.

    Args:
        handle: The stream's actors.
        plan: The pools of the run.
        selector: Who looks back.
        generation: Of the worker group: one that begins anew at an earlier epoch sees nothing of
            what the one before it saw later.
    """

    def __init__(
        self, handle: StreamHandle, plan: PoolPlan, selector: Selector, generation: int
    ) -> None:
        self._handle = handle
        self._plan = plan
        self._selector = selector
        self._generation = generation
        self._held: tuple[int, Outlook | None] | None = None

    def of(self, pool: int) -> Outlook | None:
        """That of a pool's epoch; waits until it is made."""
        if not self._selector.looks_back:
            return None
        epoch, first, _ = self._plan.locate(pool)
        held = self._held
        if held is None or held[0] != epoch:
            held = self._held = (epoch, self._fetch(epoch, makes=first == 0))
        return held[1]

    def _fetch(self, epoch: int, *, makes: bool) -> Outlook | None:
        board = self._handle.board
        name = outlook_name(self._handle.name, self._generation, epoch)
        if makes and board.version(name) < epoch and self._handle.history is not None:
            known = self._handle.history.records()
            seen = self._selector.outlook(known, epoch, self._plan.epochs)
            board.put(name, epoch, seen and seen.state_dict())
        _, state = board.get(name, at_least=epoch)
        return state and Outlook.from_state(state)


def outlooks_of(stream: str) -> str:
    """Where on the board all of a stream are."""
    return f"outlook/{stream}/"


def outlook_name(stream: str, generation: int, epoch: int) -> str:
    """Where on the board that of an epoch is."""
    return f"{outlooks_of(stream)}{generation}/{epoch}"


@dataclass(frozen=True)
class Flow:
    """One execution: a generation of the worker group, from where training stands to the end.

    Args:
        handle: The stream's actors.
        plan: The pools of the run.
        generation: Of the worker group that it serves.
        cursor: A list of one reference to the `Cursor` that it starts from.
    """

    handle: StreamHandle
    plan: PoolPlan
    generation: int
    cursor: list[Any]

    def get_cursor(self) -> Cursor:
        """Fetch where training stood."""
        return cast(Cursor, ray.get(self.cursor[0]))


class PoolReader:
    """A reader actor of Ray Data: turns a pool's number into rows, no further ahead than needed.

    Args:
        flow: The execution that it is of.
    """

    def __init__(self, flow: Flow) -> None:
        step_back()
        handle, plan, generation = flow.handle, flow.plan, flow.generation
        handle.can_be_asked("reader")
        handle.ledger.reader_is_up(generation)  # before a model is built, however long that takes
        self._reading = handle.get_reading()
        self._scored = self._reading.selector.needs_scores
        self._outlooks = Outlooks(handle, plan, self._reading.selector, generation)
        self._history = handle.history and handle.history.of(generation)
        self._ledger = handle.ledger
        self._plan = plan
        self._generation = generation
        self._cursor = flow.get_cursor()
        self._nothing: Batch | None = None
        self._one_at_a_time = Lock()

    def __call__(self, numbers: Batch) -> Any:
        """Rows of one pool; none when it is trained already or the run is over."""
        with telling(self._ledger):
            return as_block(self._rows(int(numbers[POOL][0])))

    def _rows(self, pool: int) -> Batch:
        if pool in self._cursor.done:
            return self.empty(pool)
        if not self._ledger.admit(self._generation, pool, self._reading.num_readers):
            return self.empty(pool)
        if pool in self._cursor.waiting:
            return self.read_waiting(pool)
        batch = self.read(pool)
        return batch if self._scored and num_rows(batch) else self.pass_on(pool, batch)

    def read(self, pool: int) -> Batch:
        """The rows of a pool that are worth reading, one pool at a time."""
        outlook = self._outlooks.of(pool)  # may wait for a pool that this reader holds too
        with self._one_at_a_time:
            return self._reading.read_wanted(self._plan, pool, outlook)

    def read_waiting(self, pool: int) -> Batch:
        """The rows of a pool that were selected before, as they were."""
        outlook, waiting = self._outlooks.of(pool), self._cursor.waiting[pool]
        with self._one_at_a_time:
            return self._reading.read_waiting(self._plan, pool, waiting, outlook)

    def empty(self, pool: int) -> Batch:
        """A block without rows that shows which columns there are."""
        with self._one_at_a_time:
            if self._nothing is None:
                batch = self._reading.read(self._plan, pool)
                self._nothing = take(batch if self._scored else with_weights(batch), slice(0, 0))
            return self._nothing

    def pass_on(self, pool: int, batch: Batch) -> Batch:
        """Where nothing is to be scored, the reader is what the ledger gates and counts."""
        if self._ledger.grant(self._generation, pool, num_rows(batch)) is None:
            return self.empty(pool)
        return self.count(pool, batch)

    def count(self, pool: int, batch: Batch) -> Batch:
        """Tell history and ledger of rows of a granted pool that are trained unscored."""
        if self._history is not None and num_rows(batch):
            ids = batch[ID].astype(np.int64, copy=False)
            self._history.record_selected(ids, self._plan.epoch_of(pool))
            self._history.flush()
        record = unscored_record(self._plan, pool, num_rows(batch))
        self._ledger.scored(self._generation, record)
        return batch


class PoolScorer:
    """A scorer actor of Ray Data: `selection.scorer.Scorer` with the run's actors at hand.

    Args:
        flow: The execution that it is of.
    """

    def __init__(self, flow: Flow) -> None:
        step_back()
        handle = flow.handle
        with collecting_rarely():
            import torch

            from raysb.selection.scorer import Scorer
            from raysb.training.gpu import keep_telling, tell_board
            from raysb.weights import FlatState, WeightStore

        keep_freed_pages()  # calls run in threads that are not the main one
        handle.can_be_asked("scorer")
        spec = handle.get_spec()
        if handle.history is None:
            raise StreamOrderError("a scorer needs a loss history")
        self._ledger = handle.ledger
        self._waiting = flow.get_cursor().waiting.keys()
        self.scorer = Scorer(
            spec.pool_scoring,
            handle.ledger,
            handle.history.of(flow.generation),
            lambda model: WeightStore(live=FlatState(model)).fetch,
            flow.plan.locate,
            generation=flow.generation,
            device="cuda" if spec.scoring.num_gpus else "cpu",
        )
        if spec.scoring.num_gpus:
            tell = partial(tell_board, handle.board, handle.name)
            own = ray.get_runtime_context().get_actor_id()
            keep_telling(tell, "scorer", str(own), torch.device("cuda"))

    def __call__(self, batch: Batch) -> Any:
        """The selected rows of a pool; as they are where they were selected before."""
        with telling(self._ledger):
            selected = num_rows(batch) and int(batch[POOL][0]) in self._waiting
            return as_block(batch if selected else self.scorer(batch))


class ReadingScorer:
    """A scorer that reads its pools itself, where `data.num_readers` is 0.

    One hop, one call of the ledger and one copy of every row less; worth it where decoding is
    light. A pool is read when it is granted: the scorer's other pool hides that time.

    Args:
        flow: The execution that it is of.
    """

    def __init__(self, flow: Flow) -> None:
        self._reader = PoolReader(flow)
        self._scorer = PoolScorer(flow).scorer
        self._ledger = flow.handle.ledger
        self._plan = flow.plan
        self._cursor = flow.get_cursor()

    def __call__(self, numbers: Batch) -> Any:
        """The selected rows of a pool; none when it is trained already or the run is over."""
        with telling(self._ledger):
            return as_block(self._rows(int(numbers[POOL][0])))

    def _rows(self, pool: int) -> Batch:
        if pool in self._cursor.waiting:
            return self._reader.read_waiting(pool)
        _, start, stop = self._plan.locate(pool)
        grant = None if pool in self._cursor.done else self._scorer.ask(pool, stop - start)
        if grant is None:
            return self._reader.empty(pool)
        batch = self._reader.read(pool)
        if not num_rows(batch):
            return self._reader.count(pool, batch)
        return self._scorer.score(batch, grant)
