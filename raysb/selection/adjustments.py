"""What can be asked of any selection: a schedule, a cap, a floor for each class, exploration."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysb.schema import Ids, Selection
from raysb.seeding import Draws
from raysb.selection.checks import is_number, is_whole
from raysb.selection.schedule import check_schedule, selects_in


@dataclass(frozen=True, kw_only=True)
class Adjustments:
    """Changes a selector's choice among the rows of a pool, whatever the selector.

    In this order:

    1. Schedule: in epochs without selection every row is taken, with probability and weight 1, and
       nothing below applies.
    2. Cap: rows that were selected `max_selected` times before are left out.
    3. Class floor: of each class with c rows in the pool at least round(class_floor c) are taken;
       those missing are drawn evenly among the rows of the class that neither the selector took nor
       the cap left out, all of them where they are too few.
    4. Exploration: each row that is not taken by now is taken with chance `explore`, those that the
       cap left out too.

    Added rows have weight 1, the others the selector's own. `probability` of a row of the selector
    stays p, and that of a row for the floor is the chance in its draw, (missing rows) / (rows drawn
    among), given what the selector took; with exploration both become p + (1 - p) explore. The
    selector's p of a row that it did not take is unknown here, so a row taken by exploration alone
    has its chance there, `explore`. Where weights are to make sums unbiased (`InfoBatch`,
    `ImportanceSampling`), added rows do not take part in that.

    Args:
        start_epoch: First epoch in which rows are selected; before it every row is trained.
        end_epoch: From this epoch on every row is trained; none: selection goes on to the end.
        whole_every: m, every m-th epoch in between is trained whole, at least 2; 0: none is.
        max_selected: Times that one id is selected in a run, at least 1; none: as often as it is.
        class_floor: Least share of each class of a pool, in [0, 1].
        explore: Chance of every other row, in [0, 1].

    Raises:
        ValueError: An argument is out of its range.
    """

    start_epoch: int = 0
    end_epoch: int | None = None
    whole_every: int = 0
    max_selected: int | None = None
    class_floor: float = 0.0
    explore: float = 0.0

    def __post_init__(self) -> None:
        check_schedule("Adjustments", self.start_epoch, self.end_epoch, self.whole_every)
        if self.max_selected is not None and not is_whole(self.max_selected, 1):
            raise ValueError(
                f"Adjustments(max_selected={self.max_selected!r}): must be a whole number of at "
                "least 1, or none; with 0 nothing would ever be trained"
            )
        if self.max_selected is not None and self.max_selected <= self.start_epoch:
            raise ValueError(
                f"Adjustments(max_selected={self.max_selected}, start_epoch={self.start_epoch}): "
                "the epochs before the start train every row, so none would be left; the cap must "
                "be above start_epoch"
            )
        for name in ("class_floor", "explore"):
            value = getattr(self, name)
            if not is_number(value, lambda share: 0 <= share <= 1):
                raise ValueError(f"Adjustments({name}={value!r}): must be a number in [0, 1]")

    @property
    def needs_classes(self) -> bool:
        """Whether `apply` must be given classes."""
        return self.class_floor > 0

    @property
    def needs_times_selected(self) -> bool:
        """Whether `apply` must be given how often each row was selected."""
        return self.max_selected is not None

    def apply(
        self,
        selection: Selection,
        ids: Ids,
        *,
        classes: npt.NDArray[np.integer] | None = None,
        times_selected: npt.NDArray[np.integer] | None = None,
        draws: Draws,
    ) -> Selection:
        """Adjust what a selector chose.

        Args:
            selection: Its choice among the pool's rows; one row may occur more than once.
            ids: int64 [n], all rows of the pool that may be trained.
            classes: int [n], where there is a class floor; any numbers.
            times_selected: int [n] before this pool, where there is a cap.
            draws: Random numbers of the pool's epoch.

        Returns:
            Indices (ascending), probabilities and weights.

        Raises:
            ValueError: `classes` or `times_selected` is needed and not one per id.
        """
        size = len(ids)
        if not selects_in(draws.epoch, self.start_epoch, self.end_epoch, self.whole_every):
            ones = np.ones(size, np.float32)
            return Selection(np.arange(size), ones, ones.copy())
        free = np.ones(size, np.bool_)
        if self.max_selected is not None:
            free = _one_each("times_selected", times_selected, size) < self.max_selected
            selection = _rows(selection, free[selection.indices])
        if self.class_floor:
            classes = _one_each("classes", classes, size)
            selection = self._lift(selection, free, classes, draws.uniform(ids, "class floor"))
        if self.explore:
            selection = self._explore(selection, draws.uniform(ids, "explore"))
        return selection

    def _lift(
        self,
        selection: Selection,
        free: npt.NDArray[np.bool_],
        classes: npt.NDArray[np.integer],
        lot: npt.NDArray[np.float64],
    ) -> Selection:
        taken = _taken(selection, len(free))
        _, number, rows = np.unique(classes, return_inverse=True, return_counts=True)
        held = np.bincount(number[taken], minlength=len(rows))
        missing = np.maximum(np.rint(self.class_floor * rows).astype(np.int64) - held, 0)
        others = np.flatnonzero(free & ~taken & (missing[number] > 0))
        others = others[np.lexsort((lot[others], number[others]))]  # class by class, each by lot
        of = number[others]
        among = np.bincount(of, minlength=len(rows))
        place = np.arange(len(others)) - (np.cumsum(among) - among)[of]
        drawn = place < missing[of]
        chance = np.minimum(missing / np.maximum(among, 1), 1)[of]
        return _with(selection, others[drawn], chance[drawn])

    def _explore(self, selection: Selection, lot: npt.NDArray[np.float64]) -> Selection:
        others = np.flatnonzero((lot < self.explore) & ~_taken(selection, len(lot)))
        p = selection.probability.astype(np.float64)
        raised = (p + (1 - p) * self.explore).astype(np.float32)
        return _with(selection._replace(probability=raised), others, self.explore)


UNCHANGED = Adjustments()


def _one_each(
    name: str, values: npt.NDArray[np.integer] | None, size: int
) -> npt.NDArray[np.integer]:
    if values is None or len(values) != size:
        given = "None" if values is None else f"{len(values)} values"
        needed_by = {"classes": "class_floor", "times_selected": "max_selected"}[name]
        raise ValueError(
            f"Adjustments.apply({name}={given}): {needed_by} needs one for each of the {size} rows"
        )
    return values


def _taken(selection: Selection, size: int) -> npt.NDArray[np.bool_]:
    taken = np.zeros(size, np.bool_)
    taken[selection.indices] = True
    return taken


def _rows(selection: Selection, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Selection:
    indices, probability, weight = selection
    return Selection(indices[which], probability[which], weight[which])


def _with(
    selection: Selection, added: npt.NDArray[np.int64], chance: npt.NDArray[np.float64] | float
) -> Selection:
    """The selection and some more rows, of weight 1."""
    indices = np.concatenate([selection.indices, added])
    chances = np.broadcast_to(np.asarray(chance, np.float32), len(added))
    ones = np.ones(len(added), np.float32)
    joined = Selection(
        indices,
        np.concatenate([selection.probability, chances]),
        np.concatenate([selection.weight, ones]),
    )
    return _rows(joined, np.argsort(indices, kind="stable"))
