"""How pools become rows; numpy only, so that readers start fast."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.schema import ID, PROBABILITY, WEIGHT, Batch, Indexed, Source, num_rows, take
from raysb.scoring.cursor import Waiting
from raysb.scoring.records import PoolRecord
from raysb.seeding import Draws
from raysb.selection.base import Selector
from raysb.selection.preselection import Outlook
from raysb.source.augment import Augmentation, none
from raysb.source.irreducible import IrreducibleLosses
from raysb.source.plan import PoolPlan
from raysb.source.reader import read_pool


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What readers do.

    Args:
        source: Rows by number.
        selector: Whose `preselect` says which rows of a pool are read at all.
        augmentation: Applied to images before scoring.
        inputs: Columns that the model sees, and to whose images it applies.
        num_readers: Processes that read and decode.
        seed: Of order, augmentation and draws.
        irreducible: Losses that are added to the rows, by id.
    """

    source: Source
    selector: Selector
    augmentation: Augmentation = none
    inputs: tuple[str, ...] = ()
    num_readers: int = 2
    seed: int = 0
    irreducible: IrreducibleLosses | None = None

    def read(self, plan: PoolPlan, pool: int) -> Batch:
        """All rows of a pool, decoded and augmented."""
        return self._read(plan, pool, None)

    def read_wanted(self, plan: PoolPlan, pool: int, outlook: Outlook | None) -> Batch:
        """The rows of a pool that are worth reading, with what is known of them.

        Args:
            plan: Which rows make up which pool.
            pool: Its number.
            outlook: What the selector looks back at in this epoch.

        Returns:
            Decoded and augmented rows; where nothing is scored with the columns of rows to train.
        """
        selector = self.selector
        if not selector.preselects:
            batch = self.read(plan, pool)
            return batch if selector.needs_scores else with_weights(batch)
        draws = Draws(seed=self.seed, epoch=plan.epoch_of(pool))
        if isinstance(self.source, Indexed):
            ids = self.source.index(*plan.locate(pool))
            wanted = selector.preselect(ids, outlook, draws)
            batch = self._read(plan, pool, wanted.rows)
        else:  # nothing tells ids but reading
            whole = self.read(plan, pool)
            wanted = selector.preselect(whole[ID].astype(np.int64, copy=False), outlook, draws)
            batch = take(whole, wanted.rows)
        return batch | wanted.columns(scored=selector.needs_scores)

    def read_waiting(
        self, plan: PoolPlan, pool: int, waiting: Waiting, outlook: Outlook | None
    ) -> Batch:
        """The rows of a pool that were selected before a checkpoint and not trained.

        Raises:
            DataError: The pool has a row of the checkpoint no more.
        """
        if waiting.rows is None:  # nothing was scored: they are selected again
            batch = self.read_wanted(plan, pool, outlook)
            return take(batch, waiting.among(batch[ID].astype(np.int64, copy=False)))
        try:
            if isinstance(self.source, Indexed):
                rows = waiting.among(self.source.index(*plan.locate(pool)))
                distinct, place = np.unique(rows, return_inverse=True)
                batch = take(self._read(plan, pool, distinct), place)
            else:
                whole = self.read(plan, pool)
                batch = take(whole, waiting.among(whole[ID].astype(np.int64, copy=False)))
        except KeyError as missing:
            raise DataError(
                f"pool {pool} has no row with the id {missing} any more, which was selected before "
                "the checkpoint: the rows are not those of the run. Resume with the data it had"
            ) from None
        return batch | waiting.rows

    def _read(self, plan: PoolPlan, pool: int, rows: npt.NDArray[np.int64] | None) -> Batch:
        batch = read_pool(
            self.source, plan, pool, self.augmentation, self.seed, inputs=self.inputs, rows=rows
        )
        return batch if self.irreducible is None else self.irreducible.add_to(batch)


def with_weights(batch: Batch) -> Batch:
    """Rows that nobody selected among: all are trained, each with weight 1."""
    ones = np.ones(num_rows(batch), np.float32)
    return {**batch, PROBABILITY: ones, WEIGHT: ones}


def unscored_record(plan: PoolPlan, pool: int, rows: int) -> PoolRecord:
    """What the ledger is told of a pool of which so many rows are trained and none is scored."""
    epoch, start, stop = plan.locate(pool)
    return PoolRecord(
        pool=pool,
        epoch=epoch,
        num_rows=stop - start,
        num_selected=rows,
        losses=np.empty(0, np.float32),
        num_correct=None,
        nonfinite=np.empty(0, np.int64),
        seconds=0.0,
    )
