"""The worker's end of the stream: batches of exactly B rows, counted, agreed and put in turn.

What the local engine and the Ray worker have in common; they differ in where rows come from
(`_blocks`) and in who is told that a step is done (`_publish`).
"""

import abc
import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from raysb.errors import StreamOrderError
from raysb.schema import (
    CORRECT,
    ID,
    LOSS,
    NUM_SCORED,
    POOL,
    SCORE,
    WEIGHT,
    WEIGHTS_STEP,
    Batch,
    Floats,
    Ids,
    num_rows,
    take,
)
from raysb.scoring.cursor import Cursor
from raysb.scoring.forward import score
from raysb.selection.batcher import Batcher
from raysb.source.plan import PoolPlan
from raysb.task import TensorBatch
from raysb.training.exchange import Exchange
from raysb.training.first_batch import compare
from raysb.training.reading import with_weights
from raysb.training.spec import StreamSpec
from raysb.training.trained import TrainedRows, by_pool
from raysb.training.transfer import Transfer

_NEVER = float(2**62)


class Said(NamedTuple):
    """What a worker tells all others before a step; as numbers, since these are what travels."""

    rows: float  # in its batch
    waited_s: float  # for rows, in all
    halt: float  # 1: the run is to end
    save: float  # 1: a checkpoint is due after this step
    gave_up: float  # 1: it waits for rows no more, since the run is to stop
    fallen_back: float  # 1: scorers need the weights of every step
    oldest: float = _NEVER  # pool of its first row
    newest: float = -1.0  # pool of its last row
    num_scored: float = -1.0  # rows scored up to its newest row
    age_sum: float = 0.0  # over its rows, in steps
    max_age: float = 0.0  # among its rows, in steps


class BatchStream(abc.ABC):
    """Iterate over selected rows; tell the scorers of every step.

    Args:
        spec: What is read, scored, selected and trained.
        device: Where the batches' tensors go.
        check_first_batch: Compare the scorer's losses with the worker's before the first step.
        on_step: Called with (step, rank, batch of this rank) after every step, for the audit.

    Attributes:
        num_steps: Optimizer steps done, those before a checkpoint included.
        num_backpropped: Rows trained by all workers.
        num_scored: Rows scored up to the newest row trained.
        epoch: Oldest epoch that some worker has yet to finish.
        oldest: All pools before this one are trained.
        fraction: Share of the run's rows whose pools lie before that of the newest row trained;
            of the rows trained, where nothing is scored. In [0, 1], 1 at the end.
        wait_seconds: Time this worker has waited for rows.
        starved_seconds: Time the steps have waited for rows, each for the worker that waited
            longest.
        max_age: Largest age of a row trained by any worker, in steps.
        must_save: Whether a checkpoint is due after this step.
        fallen_back: Whether scorers need the weights of every step, whatever was set.
    """

    def __init__(
        self,
        spec: StreamSpec,
        *,
        device: torch.device | str = "cpu",
        check_first_batch: bool = True,
        on_step: Callable[[int, int, Batch], None] | None = None,
    ) -> None:
        self.spec = spec
        self.task = spec.task
        self.device = torch.device(device)
        self._transfer = Transfer(self.device)
        self.exchange = Exchange(alone=True)
        self.num_steps = self.num_backpropped = self.num_scored = self.epoch = self.oldest = 0
        self.fraction = self.wait_seconds = self.starved_seconds = 0.0
        self._waits: list[float] = []  # of each worker, when the last step was agreed on
        self.max_age = 0
        self.must_save = False
        self.fallen_back = False
        self._gave_up = False  # waiting for rows, since the run is to stop
        self._age_sum = self._aged_rows = 0  # of all workers
        self._trained = TrainedRows()
        self._counters: Mapping[str, Any] | None = None  # of a checkpoint
        self.cursor = Cursor()
        self.plan: PoolPlan | None = None
        self._check = check_first_batch and spec.scored
        self._on_step = on_step
        self._turn = "next"
        self._reduced = 0  # rows of the batch
        self._loss_sum: Any = 0.0
        self._loss_rows = 0

    # --- what the engines differ in ------------------------------------------------------------

    @abc.abstractmethod
    def _open(self, batch_size: int, epochs: int, model: nn.Module | None) -> PoolPlan:
        """Start the flow of rows at the cursor."""

    @abc.abstractmethod
    def _blocks(self) -> Iterator[Batch]:
        """Selected rows in the order of the pools, in blocks of any size."""

    @abc.abstractmethod
    def _publish(self, model: nn.Module) -> None:
        """Tell whoever scores that a step is done."""

    @abc.abstractmethod
    def _record_backward(self, ids: Ids, losses: Floats) -> None:
        """Note the losses of this worker's rows of a step, where the selector looks at them."""

    @abc.abstractmethod
    def _close(self) -> None:
        """End the flow of rows."""

    def progress(self, epoch: int | None = None) -> dict[str, Any]:
        """Sums over the run; see `Ledger.progress`."""
        return {"num_scored": self.num_scored}

    # --- the loop ------------------------------------------------------------------------------

    def iter_batches(
        self,
        *,
        batch_size: int,
        epochs: int,
        model: nn.Module | None = None,
        max_steps: int | None = None,
        max_backprops: int | None = None,
        stop: Callable[[], bool] | None = None,
        save: Callable[[], bool] | None = None,
    ) -> Generator[TensorBatch, None, None]:
        """Batches of exactly `batch_size` rows on the device, until the epochs are over.

        Every worker gets equally many. Rows of weight 0 pad the last ones; they come from the same
        columns, so shapes are constant. Call `reduce` and `step` once for each batch.

        Args:
            batch_size: Rows per worker and step, B.
            epochs: Passes over the data.
            model: The module that is trained. Its weights score the first pools, and its losses
                are compared with the scorers'; without it scorers start from the builder's own.
            max_steps: End after this many steps in all.
            max_backprops: End after exactly this many rows trained by all workers.
            stop: Asked by worker 0 before each step; True ends the run for all.
            save: Asked by worker 0 before each step; where it is True, `must_save` is on every
                worker until the next step.
        """
        module = None if model is None else unwrap(model)
        if self.plan is not None:
            raise StreamOrderError(
                "iter_batches was called a second time: a stream is iterated once, from its cursor "
                "to the end of its epochs; make another stream for another pass"
            )
        self._batch_size = batch_size
        self._identity = self.spec.identity(batch_size)
        if self._counters is not None:
            self.spec.check_identity(self._counters["made_with"], batch_size)
        self.plan = self._open(batch_size, epochs, module)
        self.oldest = self.cursor.low
        self.epoch = self.plan.epoch_of(self.oldest)
        self._take_up()
        rows = self._batches(batch_size)
        try:
            while max_steps is None or self.num_steps < max_steps:
                batch = self._agree(next(rows), max_backprops, stop, save)
                if batch is None:
                    break
                if self._check and module is not None:
                    self._compare(module, batch)
                self._batch, self._turn = batch, "reduce"
                yield self._transfer(self.task.tensors(batch))
                if self._turn != "next":
                    raise StreamOrderError(
                        f"the next batch was asked for before stream.{self._turn}(...): call "
                        "reduce and step once for each batch, else the other workers wait for ever"
                    )
        finally:
            self._close()

    def _batches(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Batches of B rows with their true row count; padded ones for ever after the end."""
        batcher = Batcher(batch_size)
        blocks = self._blocks()
        while True:
            start = time.perf_counter()
            while (full := batcher.pop()) is None:
                block = next(blocks, None)
                if block is None:
                    break
                if num_rows(block):
                    batcher.push(block)
            self.wait_seconds += time.perf_counter() - start
            if full is None:
                break
            yield full, batch_size
        while True:
            yield batcher.flush() if batcher.seen else ({}, 0)

    def _agree(
        self,
        mine: tuple[Batch, int],
        max_backprops: int | None,
        stop: Callable[[], bool] | None,
        save: Callable[[], bool] | None,
    ) -> Batch | None:
        """Decide with the other workers what this step is; `None` ends the run."""
        batch, rows = mine
        plan = self._plan()
        said = np.array(self._say(batch, rows, stop, save), np.float64)
        everyone = [Said(*each) for each in self.exchange.gather(said).tolist()]
        if any(each.gave_up for each in everyone):
            return None  # rows may be left: this is not the end
        counts = [int(each.rows) for each in everyone]
        room = _NEVER if max_backprops is None else max_backprops - self.num_backpropped
        if not any(counts):
            self.epoch, self.fraction = plan.epochs, 1.0
            self.num_scored = self._scored_in_all()
            return None
        if any(each.halt for each in everyone) or room <= 0:
            return None
        self.must_save = any(each.save for each in everyone)
        self.fallen_back = any(each.fallen_back for each in everyone)
        waits = [each.waited_s for each in everyone]
        before = self._waits or [0.0] * len(waits)
        self.starved_seconds += max(now - then for now, then in zip(waits, before, strict=True))
        self._waits = waits
        self._global_rows = int(min(sum(counts), room))
        mine_from = sum(counts[: self.exchange.rank])
        self._rows = min(max(self._global_rows - mine_from, 0), rows)
        self._ages = self._ages_of_all(everyone, batch)
        self.oldest = int(min(each.oldest for each in everyone))
        self.epoch = plan.epoch_of(self.oldest)
        newest = int(max(each.newest for each in everyone)) + 1
        self.num_scored = max(self.num_scored, int(max(each.num_scored for each in everyone)))
        # what lies behind, not what is under way: a schedule ends after the last row, not before
        some = self.spec.scored or self.spec.selector.preselects
        behind = plan.rows_before(newest - 1) if some else self.num_backpropped
        self.fraction = min(behind / plan.rows_before(plan.num_pools), 1.0)
        return self._pad(batch)

    def _say(
        self,
        batch: Batch,
        rows: int,
        stop: Callable[[], bool] | None,
        save: Callable[[], bool] | None,
    ) -> Said:
        """What the other workers must know of this one, and of the clock, which worker 0 reads."""
        asked = self.exchange.rank == 0
        said = Said(
            rows=rows,
            waited_s=self.wait_seconds,
            halt=asked and stop is not None and stop(),
            save=asked and save is not None and save(),
            gave_up=self._gave_up,
            fallen_back=self._has_fallen_back(),
        )
        if not rows:
            return said
        oldest, newest = int(batch[POOL][0]), int(batch[POOL][rows - 1])
        num_scored = self._scored_with(batch, rows)
        age_sum, max_age = self._ages_of(batch, rows)
        return said._replace(
            oldest=oldest, newest=newest, num_scored=num_scored, age_sum=age_sum, max_age=max_age
        )

    def _ages_of(self, batch: Batch, rows: int) -> tuple[float, float]:
        """Sum and maximum of the ages of a batch's first rows in the coming step."""
        if WEIGHTS_STEP not in batch or not rows:
            return 0.0, 0.0
        ages = self.num_steps - batch[WEIGHTS_STEP][:rows]
        return float(ages.sum()), float(ages.max())

    def _ages_of_all(self, everyone: Sequence[Said], batch: Batch) -> npt.NDArray[np.float64]:
        """Sum and maximum of the ages of each worker's rows in this step. [W, 2]"""
        if self._global_rows < sum(each.rows for each in everyone):  # max_backprops: the last step
            return self.exchange.gather(np.array(self._ages_of(batch, self._rows)))
        return np.array([(each.age_sum, each.max_age) for each in everyone])

    def _scored_with(self, batch: Batch, rows: int) -> int:
        """Rows scored up to the newest row of a batch."""
        if not self.spec.scored:
            return 0
        if NUM_SCORED in batch:
            return int(batch[NUM_SCORED][:rows].max())
        newest = int(batch[POOL][rows - 1])
        return self._plan().rows_before(newest + 1)

    def _scored_in_all(self) -> int:
        """Rows scored when all pools are. Collective."""
        if not self.spec.scored:
            return 0
        if not self.spec.selector.trains_unscored:
            return self._plan().rows_before(self._plan().num_pools)
        told: list[int] = self.exchange.gather_objects(self.progress()["num_scored"])
        return max(told)

    def _pad(self, batch: Batch) -> Batch:
        """Weight 0 for what lies past this worker's share of the last step."""
        if not batch:  # others have rows and this worker never had one
            batch, _ = Batcher(self._batch_size).flush(template=self._template())
        weight = batch[WEIGHT].copy()
        weight[self._rows :] = 0
        return {**batch, WEIGHT: weight}

    def _template(self) -> Batch:
        """One row with all columns, to make a batch of padding from."""
        row = with_weights(take(self.spec.read(self._plan(), 0), slice(0, 1)))
        if self.spec.scored:
            scores = score(self.task, self.task.build(self.spec.seed), row, by=self.spec.by)
            row |= {LOSS: scores.losses, WEIGHTS_STEP: np.zeros(1, np.int64), **scores.extra}
            if scores.ranked is not None:
                row |= {SCORE: scores.ranked}
            if self.spec.selector.trains_unscored:
                row = {name: column for name, column in row.items() if name != SCORE}
                row |= {NUM_SCORED: np.zeros(1, np.int64)}
            elif scores.correct is not None:
                row |= {CORRECT: scores.correct}
        return row

    # --- what the user calls for each batch ------------------------------------------------------

    def reduce(self, losses: torch.Tensor, batch: TensorBatch) -> torch.Tensor:
        """The scalar to differentiate: sum(w l) * world / rows of all workers.

        Its gradient, averaged over workers as DDP does, is that of the mean over the rows of all
        workers, whatever the split; importance weights stay unbiased, since nothing divides by
        their sum. Over micro-batches of the batch, one call each, the gradients add up to it.

        Args:
            losses: One per row, [B], or [b] of the b rows that come next in the batch.
            batch: The batch as yielded, or those rows of it.

        Raises:
            StreamOrderError: Called for more rows than the batch has.
        """
        if self._turn != "reduce":
            raise StreamOrderError(
                f"stream.reduce was called when stream.{self._turn} was due: call reduce once, "
                "then step once, for each batch"
            )
        start, stop = self._reduced, self._reduced + len(losses)
        if stop > self._batch_size:
            raise StreamOrderError(
                f"stream.reduce was called for rows {start} to {stop} of a batch of "
                f"{self._batch_size}: give each row once, in the batch's order, then call step"
            )
        whole = stop == self._batch_size
        self._turn, self._reduced = ("step", 0) if whole else ("reduce", stop)
        weight = batch[WEIGHT].to(losses.dtype)
        weighted = losses * weight
        if not self._batch[WEIGHT][start:stop].all():  # padding counts 0 even where its loss is NaN
            weighted = torch.where(weight > 0, weighted, torch.zeros_like(losses))
        weighted = weighted.sum()
        self._loss_sum = self._loss_sum + weighted.detach()
        mine = slice(start, min(stop, self._rows))
        rows = max(mine.stop - start, 0)
        self._loss_rows += rows
        if self.spec.selector.records_backward and rows:
            self._record_backward(
                self._batch[ID][mine].astype(np.int64, copy=False),
                losses.detach()[:rows].float().cpu().numpy(),
            )
        return weighted * (self.exchange.world_size / self._global_rows)

    def step(self, model: nn.Module) -> None:
        """Count an optimizer step, and publish the weights when they are due.

        Raises:
            StreamOrderError: Called before `reduce`.
        """
        if self._turn != "step":
            raise StreamOrderError(
                f"stream.step was called when stream.{self._turn} was due: call reduce once, "
                "then step once, for each batch"
            )
        self._turn = "next"
        mine = {name: column[: self._rows] for name, column in self._batch.items()}
        self._trained.note(mine, self.oldest)
        if WEIGHTS_STEP in mine:
            self.max_age = max(self.max_age, int(self._ages[:, 1].max()))
            self._age_sum += int(self._ages[:, 0].sum())
            self._aged_rows += self._global_rows
        self.num_backpropped += self._global_rows
        self.num_steps += 1
        if self._on_step is not None:
            self._on_step(self.num_steps, self.exchange.rank, mine)
        self._publish(unwrap(model))

    @property
    def global_rows(self) -> int:
        """Rows of all workers in the step under way."""
        return self._global_rows

    def _has_fallen_back(self) -> bool:
        """Whether this worker knows that scorers need the weights of every step."""
        return False

    def publishes(self) -> bool:
        """Whether the next `step` publishes weights, so that its model must be up to date.

        The same on every worker: a model whose parts lie on several is gathered then.
        """
        return False

    def take_train_loss(self) -> tuple[float, int]:
        """Sum of w l and rows of this worker since the last call."""
        total, rows = float(self._loss_sum), self._loss_rows
        self._loss_sum, self._loss_rows = 0.0, 0
        return total, rows

    def mean_age(self) -> float | None:
        """Mean age of the rows trained by all workers, in steps; `None` where nothing is scored."""
        return self._age_sum / self._aged_rows if self._aged_rows else None

    # --- state ---------------------------------------------------------------------------------

    def all_trained(self) -> dict[int, Ids]:
        """Ids of the rows that all workers have trained, by pool, from `oldest` on. Collective."""
        return by_pool(self.exchange.gather_objects(self._trained.steps), self.oldest)

    def counters(self) -> dict[str, Any]:
        """What the stream has counted, of all workers. Collective."""
        # ages are of all workers on each: the first saves them
        ages = [self._age_sum, self._aged_rows] if self.exchange.rank == 0 else [0, 0]
        mine = [float(self._loss_sum), self._loss_rows, *ages]
        return {
            "made_with": self._identity,
            "num_steps": self.num_steps,
            "num_backpropped": self.num_backpropped,
            "num_scored": self.num_scored,
            "max_age": self.max_age,
            "sums": self.exchange.gather_objects(mine),
        }

    def load_counters(self, state: Mapping[str, Any]) -> None:
        """Take over what `counters` gave; before `iter_batches`, on every worker."""
        self.num_steps, self.num_backpropped = state["num_steps"], state["num_backpropped"]
        self.num_scored, self.max_age = state["num_scored"], state["max_age"]
        self._counters = dict(state)

    def _take_up(self) -> None:
        """Each worker its own losses; where there are more or fewer workers now, the first has all.

        Ages are those of all workers, on each.
        """
        if self._counters is None:
            return
        sums = self._counters["sums"]
        total = [sum(each) for each in zip(*sums, strict=True)]
        if len(sums) != self.exchange.world_size:
            sums = [total, *([0.0] * len(total) for _ in range(self.exchange.world_size - 1))]
        loss_sum, loss_rows, _, _ = sums[self.exchange.rank]
        self._loss_sum, self._loss_rows = loss_sum, int(loss_rows)
        self._age_sum, self._aged_rows = int(total[2]), int(total[3])

    def _plan(self) -> PoolPlan:
        if self.plan is None:
            raise StreamOrderError("the stream has not been started: iterate over iter_batches()")
        return self.plan

    def _compare(self, model: nn.Module, batch: Batch) -> None:
        """The scorer's loss must be the worker's, as long as both have the same weights."""
        self._check = False
        small = self.spec.scoring.image_scale < 1
        if self.spec.proxy is not None or (small and self.num_steps):
            return  # another model's loss; of a run that goes on, it may be that of the fallback
        if next(model.parameters()).device.type != self.device.type:  # gathered on the CPU
            model = copy.deepcopy(model).to(self.device)
        mine = take(batch, slice(0, self._rows))
        with self._precision():
            compare(self.spec, model, mine, step=self.num_steps, slack=self._slack())

    def _precision(self) -> AbstractContextManager[None]:
        """What the first batch's check is computed in: as scorers compute. This process's own.

        On a GPU the worker's convolutions are in TF32 (torch's default). Beside scorers on CPUs
        that alone would be a difference above the tolerance, and a sound run would be refused;
        scorers on GPUs round alike, and full float32 would then be what differs from them.
        """
        return nullcontext()

    def _slack(self) -> float:
        """Factor on the tolerance of the first batch's check, for scores of low precision."""
        return 1.0


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel or DataParallel, or the module itself."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        inner: nn.Module = model.module
        return inner
    return model
