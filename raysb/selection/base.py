"""What every selector has in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from raysb.history.records import LossRecords
from raysb.history.state import VERSION, check_state
from raysb.schema import LOSS, Floats, Ids, Selection
from raysb.seeding import Draws
from raysb.selection.checks import is_number, is_whole
from raysb.selection.distribution import LossDistribution
from raysb.selection.preselection import Outlook, Preselection, all_scored


class Selector(ABC):
    """Chooses the rows of a pool that are worth a backward pass.

    Subclasses are keyword-only dataclasses of their hyperparameters, checked at construction. They
    hold no model and draw no numbers of their own, so that the same draws give the same picks.

    Attributes:
        needs_scores: Whether pools must be scored; if not, the scoring stage is left out.
        preselects: Whether `preselect` is to be asked before the rows of a pool are read.
        trains_unscored: Whether a stream that scores may train some rows without: their blocks have
            no `correct` and no further columns of scoring.
        records_backward: Whether the losses of training steps go into the loss history.
        score: What is ranked unless `scoring.score` says otherwise, a name of `SCORES`.
        history: R, the scores to keep for the distribution; 0 where there is none.
    """

    needs_scores: ClassVar[bool]
    preselects: ClassVar[bool] = False
    trains_unscored: ClassVar[bool] = False
    records_backward: ClassVar[bool] = False
    score: ClassVar[str] = LOSS
    history: int = 0

    _num_offered: int = 0
    _num_selected: int = 0

    @abstractmethod
    def select(
        self, ids: Ids, scores: Floats | None, distribution: LossDistribution | None, draws: Draws
    ) -> Selection:
        """Choose rows of a pool.

        Args:
            ids: int64 [n].
            scores: float32 [n], all finite; `None` where `needs_scores` is false.
            distribution: Recent scores, those of the pool among them; `None` as above.
            draws: Random numbers keyed by id, of the pool's epoch.

        Returns:
            Positions in the pool (ascending), probabilities and weights of the chosen rows.

        Raises:
            ValueError: A score is not finite, or there are not as many as ids.
        """

    @property
    def counts_losses(self) -> bool:
        """Whether it ranks among counts of losses, which is what it is sent then."""
        return False

    @property
    def stalls_on_old_scores(self) -> bool:
        """Whether scores a few steps old stall it at the start, when each step changes the ranks.

        Then `scoring.max_staleness_steps=auto` lets ages grow only as the run goes on.
        """
        return False

    @property
    def needs_accuracy(self) -> bool:
        """Whether it looks at the distribution's `accuracy`, so that there has to be one."""
        return False

    @property
    def looks_back(self) -> bool:
        """Whether an epoch can only begin when the one before it is recorded."""
        return self.preselects and (self.needs_scores or self.records_backward)

    def outlook(self, known: LossRecords, epoch: int, epochs: int) -> Outlook | None:
        """Look back, once at the start of an epoch.

        Args:
            known: What the history holds of every id so far, by ascending id.
            epoch: The epoch that begins, from 0.
            epochs: Epochs of the run.

        Returns:
            What `preselect` is to be given in this epoch; `None` where it needs nothing.
        """
        return None

    def preselect(self, ids: Ids, outlook: Outlook | None, draws: Draws) -> Preselection:
        """Say what becomes of the rows of a pool before they are read; asked if `preselects`.

        Args:
            ids: int64 [n].
            outlook: What `outlook` returned for this epoch.
            draws: Random numbers keyed by id, of the pool's epoch.
        """
        return all_scored(len(ids))

    def to_score(self, ids: Ids, window: Floats, draws: Draws) -> npt.NDArray[np.int64] | None:
        """Say which rows of a pool that was read are to be scored, just before they are.

        The others are trained, each with weight 1.

        Args:
            ids: int64 [n].
            window: float32 [<= R], the last scores before the pool, in pool order.
            draws: Random numbers keyed by id, of the pool's epoch.

        Returns:
            Positions, ascending; `None` for all rows.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """What was counted so far."""
        return {
            "version": VERSION,
            "num_offered": self._num_offered,
            "num_selected": self._num_selected,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a saved state.

        Raises:
            ValueError: The state is not one of a selector of this class.
        """
        check_state(type(self).__name__, state, self.state_dict().keys() - {"version"})
        self._num_offered = int(state["num_offered"])
        self._num_selected = int(state["num_selected"])

    def metrics(self) -> dict[str, float]:
        """Rows offered and selected since the run began, and their quotient."""
        kept = self._num_selected / self._num_offered if self._num_offered else 0.0
        return {
            "num_offered": float(self._num_offered),
            "num_selected": float(self._num_selected),
            "kept_fraction": kept,
        }

    def _count(self, offered: int, selected: int) -> None:
        self._num_offered += offered
        self._num_selected += selected

    # --- what built-in selectors are made of ----------------------------------------------------

    def _check(self, valid: bool, name: str, allowed: str) -> None:
        if not valid:
            given = f"{name}={getattr(self, name)!r}"
            raise ValueError(f"{type(self).__name__}({given}): must be {allowed}")

    def _check_whole(self, name: str, least: int) -> None:
        fits = is_whole(getattr(self, name), least)
        self._check(fits, name, f"a whole number of at least {least}")

    def _check_number(self, name: str, fits: Callable[[float], bool], allowed: str) -> None:
        self._check(is_number(getattr(self, name), fits), name, allowed)

    def _check_share(self, name: str) -> None:
        self._check_number(name, lambda share: 0 < share <= 1, "a number above 0 and at most 1")

    def _check_flag(self, name: str) -> None:
        self._check(isinstance(getattr(self, name), bool), name, "True or False")

    def _finite(self, ids: Ids, scores: Floats | None) -> Floats:
        """The scores, one per id and all finite."""
        if scores is None or len(scores) != len(ids) or not np.isfinite(scores).all():
            raise ValueError(
                f"{type(self).__name__}.select: {len(ids)} ids need as many finite losses, got "
                f"{None if scores is None else scores}; leave out the others, as select_pool does"
            )
        return scores

    def _given(self, distribution: LossDistribution | None) -> LossDistribution:
        if distribution is None:
            name = type(self).__name__
            raise ValueError(f"{name}.select(distribution=None): losses have no rank")
        return distribution

    def _draw(self, ids: Ids, probability: npt.NDArray[np.float64], draws: Draws) -> Selection:
        """Each row by itself: it is selected where its draw lies below its probability."""
        rows = np.flatnonzero(draws.uniform(ids) < probability)
        return self._selected(ids, rows, probability[rows])

    def _selected(
        self, ids: Ids, rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
    ) -> Selection:
        """Count, and pass on rows (ascending) with their probability and weight 1."""
        self._count(len(ids), len(rows))
        return Selection(rows, probability.astype(np.float32), np.ones(len(rows), np.float32))
