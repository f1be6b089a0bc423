"""What scorers, readers and the ledger say to each other of a pool."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from raysb.schema import Batch, Floats, Ids
from raysb.scoring.agreement import RankAgreement


class Refusal(Enum):
    """Why a pool is not granted."""

    WAIT = "wait"
    CLOSED = "closed"


class Grant(NamedTuple):
    """Leave to score a pool."""

    weights_step: int  # score with the weights of this step
    window: Any  # the last losses in pool order, as the ring passes them on
    weights: Any = None  # where to find them, as the trainer told
    num_scored: int = 0  # rows that the run has scored so far
    fallen_back: bool = False  # score with the live model, in full precision and size
    accuracy: float | None = None  # of the newest earlier epoch that was scored whole, if known


class PoolRecord(NamedTuple):
    """What a scorer reports of a pool, besides what goes to the history."""

    pool: int
    epoch: int
    num_rows: int  # of the pool
    num_selected: int
    losses: Floats  # [n] the finite ones of the rows that were scored, in row order
    num_correct: int | None
    nonfinite: Ids  # ids of the others
    seconds: float  # spent scoring
    scores: Floats | None = None  # [n] what is ranked, where that is not the losses
    # what the stages know of each selected row, with its id; `None` where nothing was scored
    rows: Batch | None = None
    fallen_back: bool = False  # as the grant said
    agreement: RankAgreement | None = None  # with the live model, where the pool was audited

    @property
    def num_scored(self) -> int:
        """Rows of the pool that were scored."""
        return len(self.losses) + len(self.nonfinite)


class Ring(Protocol):
    """The last R losses in pool order: `LossRing` or `CountedRing`, handed in."""

    def record(self, pool: int, losses: Floats) -> None:
        """Add or replace a pool's losses."""

    def window(self) -> Any:
        """The last R losses in pool order, in whatever form the selector ranks among them."""

    def state_dict(self) -> dict[str, Any]:
        """Plain arrays."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
