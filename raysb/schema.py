"""What flows between the stages: the names of the columns and the shapes of what is passed on.

A batch is a dict of numpy arrays whose first dimension counts rows: row `i` of every column is one
sample. The columns below are the stream's own; all others are the user's and pass through as given.

column          dtype     written by  meaning
id              int64     source      stable key of a sample: from the data, else from (file, row)
pool            int64     source      sequence number of the pool in the run: (epoch, block)
loss            float32   scoring     per-sample loss, eval mode, no gradient
correct         uint8     scoring     1 where the prediction was right; absent where there is none
score           float32   scoring     what the selector ranks
weights_step    int64     scoring     optimizer steps behind the weights that scored the row
num_scored      int64     scoring     rows the run had scored after this row's pool; only where
                                      some rows are trained unscored
probability     float32   selection   chance with which the row was selected
weight          float32   selection   factor on its loss; 0 marks a row that only pads the batch

Dimensions in comments: B rows of a training batch, n rows of a pool, N rows of the data set,
R losses in the history, W train workers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

ID = "id"
POOL = "pool"
LOSS = "loss"
CORRECT = "correct"
SCORE = "score"
WEIGHTS_STEP = "weights_step"
NUM_SCORED = "num_scored"
PROBABILITY = "probability"
WEIGHT = "weight"

STREAM_COLUMNS = (
    ID,
    POOL,
    LOSS,
    CORRECT,
    SCORE,
    WEIGHTS_STEP,
    NUM_SCORED,
    PROBABILITY,
    WEIGHT,
)

Batch: TypeAlias = dict[str, npt.NDArray[np.generic]]
Ids: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


class Selection(NamedTuple):
    """Rows of a pool that are worth a backward pass. Produced by a selector."""

    indices: npt.NDArray[np.int64]  # [k] positions in the pool, ascending
    probability: Floats  # [k] chance with which each was selected, in (0, 1]
    weight: Floats  # [k] factor on its loss


class PoolScores(NamedTuple):
    """What scoring learned about one pool. Produced by scoring; consumed by ledger and history."""

    pool: int
    epoch: int
    weights_step: int
    ids: Ids  # [n]
    losses: Floats  # [n] non-finite where the model's were
    correct: npt.NDArray[np.uint8] | None  # [n], None where the task has no right answer
    selected: npt.NDArray[np.bool_]  # [n]


class Published(NamedTuple):
    """Weights that scorers can fetch: what a grant carries. References, so it is small."""

    step: int  # optimizer steps behind them
    sets: dict[str, Any]  # by name (`live`, `ema`, ...), references to flat arrays


class Source(Protocol):
    """Rows by number: the only thing that the stream asks of a data set."""

    @property
    def num_rows(self) -> int:
        """Rows in one epoch."""

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Return rows [start, stop) of an epoch's order; `None` is the order of the data itself.

        The same arguments give the same rows in every process. The batch holds `id` (int64).
        """


@runtime_checkable
class Indexed(Protocol):
    """A `Source` that tells ids without reading rows, and reads some rows of a span.

    Where rows are chosen before they are read, only those are decoded. Of a source without these
    methods all rows are read, and then left out.
    """

    def index(self, epoch: int | None, start: int, stop: int) -> Ids:
        """Ids of the rows [start, stop) of an epoch's order. int64 [stop - start]"""

    def read_some(
        self, epoch: int | None, start: int, stop: int, rows: npt.NDArray[np.int64]
    ) -> Batch:
        """The rows at some positions of [start, stop), in their order."""


@runtime_checkable
class Arranged(Protocol):
    """A `Source` whose orders follow from more than the seed and the number of rows."""

    def arrangement(self) -> str:
        """What else decides which row is where in an epoch: two that differ order rows apart."""


def num_rows(batch: Mapping[str, npt.NDArray[np.generic]]) -> int:
    """Rows of a batch; 0 for one without columns."""
    return next((len(column) for column in batch.values()), 0)


def take(batch: Batch, rows: npt.NDArray[np.integer] | slice) -> Batch:
    """The given rows of every column."""
    return {name: column[rows] for name, column in batch.items()}


def rows_of(ids: Ids, there: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The row of each id, and whether it is there; where it is not, the row is any.

    Args:
        ids: int64 [n].
        there: Ids of the rows, int64 [N], in any order.

    Returns:
        int64 [n] in [0, N), and bool [n].
    """
    if not len(there):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    by_id = np.argsort(there, kind="stable")
    rows = by_id[np.minimum(np.searchsorted(there, ids, sorter=by_id), len(there) - 1)]
    return rows, there[rows] == ids


def concatenate(batches: list[Batch]) -> Batch:
    """Rows of several batches with the same columns, in order."""
    if len(batches) == 1:
        return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
