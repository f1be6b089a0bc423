"""Statistics for pruning, from training steps that run anyway: `train.statistics`.

A row that was selected with probability p counts 1/p, so that what was selected more often weighs
as much as in the population; rows that pad a batch count 0. Kept is what the newest epoch that is
over gave, and what came since: weights move, and what an early epoch says of them is of no use.

Each worker adds up its own rows. A checkpoint holds the sum over workers, which the first worker
goes on from when the run resumes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import nn

from raysb.errors import ModelError
from raysb.nn.norm import has_batch_statistics
from raysb.prune.criteria.accumulator import Accumulator, inverse_probability
from raysb.prune.criteria.layers import prunable_layers
from raysb.prune.criteria.statistics import Statistics
from raysb.schema import WEIGHT
from raysb.selection import Adjustments, ConfidenceBand, HighestK, OrderedSGD, Selector
from raysb.task import TensorBatch
from raysb.training.exchange import Exchange
from raysb.training.parallel import StepLoss

STATISTICS = "statistics"  # their key in a checkpoint
_PARTIAL = (HighestK, ConfidenceBand, OrderedSGD)  # some rows have no chance


class ChannelStatistics:
    """Adds up the statistics of every nth step.

    Args:
        model: The whole module, without a wrapper, with its parameters frozen as in training.
        kinds: Of `activation`, `gradient` and `per_sample_gradient`.
        every: n, at least 1; a step's number decides, so that workers observe the same steps.

    Raises:
        ModelError: No layer's channels could be ranked, or rows see each other in training.
    """

    def __init__(self, model: nn.Module, kinds: Sequence[str], every: int) -> None:
        self._kinds, self._every, self._model = frozenset(kinds), every, model
        self._layers = observed_layers(model)
        self._accumulator = self._new()
        self._before: Statistics | None = None  # of the newest epoch that is over
        self._epoch = 0

    def observing(self, loss: StepLoss, step: int, epoch: int, workers: int) -> StepLoss:
        """The loss of a step, watched if it is one of those.

        Args:
            loss: Each row enters what is differentiated with weight x `workers` x `share`.
            step: Number of the step, from 0.
            epoch: The oldest whose rows are not all trained.
            workers: W.
        """
        self._begin(epoch)
        if step % self._every:
            return loss
        observe, factor = self._accumulator.observe, workers * loss.share

        def watch(rows: TensorBatch) -> AbstractContextManager[None]:
            u = inverse_probability(rows)
            # padding has no share in the loss, and no weight here
            return observe(u, scale=(rows[WEIGHT].double() * factor).where(u > 0, 1.0))

        return replace(loss, watch=watch)

    def state_dict(self, epoch: int, exchange: Exchange) -> dict[str, Any]:
        """The sums over all workers, as tensors and plain values. Collective."""
        self._begin(epoch)
        parts = [self._accumulator.statistics, self._before]
        mine = [None if part is None else part.state_dict() for part in parts]
        now, before = zip(*exchange.gather_objects(mine), strict=True)
        return {"epoch": self._epoch, "now": _sum(now), "before": _sum(before)}

    def load_state_dict(self, state: dict[str, Any], rank: int) -> None:
        """Go on from what `state_dict` gave, if it is of the same layers and kinds."""
        self._epoch = state["epoch"]
        now, before = (
            None if state[key] is None else Statistics.from_state(state[key])
            for key in ("now", "before")
        )
        if rank or now is None or not self._fits(now):
            return
        self._accumulator.statistics.merge(now)
        self._before = before

    def _begin(self, epoch: int) -> None:
        """At the begin of an epoch, what the one before gave is set aside."""
        if epoch == self._epoch:
            return
        if self._accumulator.statistics.rows:
            self._before = self._accumulator.statistics
            self._accumulator = self._new()
        self._epoch = epoch

    def _new(self) -> Accumulator:
        return Accumulator(self._model, self._layers, needs=self._kinds)

    def _fits(self, found: Statistics) -> bool:
        return found.needs == self._kinds and list(found.layers) == self._layers


def saved_statistics(learner: dict[str, Any]) -> Statistics | None:
    """What a checkpoint knows: of the newest epoch that is over, and of what came since."""
    kept = learner.get(STATISTICS)
    found = None if kept is None else _sum([kept["before"], kept["now"]])
    return None if found is None else Statistics.from_state(found)


def observed_layers(model: nn.Module) -> list[str]:
    """The layers whose channels may be ranked and whose weights are trained.

    Raises:
        ModelError: There is none, or rows see each other in training.
    """
    if moving := has_batch_statistics(model):
        raise ModelError(
            f"train.statistics: the model has batch statistics ({moving[0]}), through which rows "
            "see each other while they train, so that no row has a gradient of its own; set "
            "model.convert_norm=true, or leave train.statistics out: `raysb prune` makes a pass of "
            "its own then"
        )
    names = [
        name
        for name in prunable_layers(model)
        if any(p.requires_grad for p in model.get_submodule(name).parameters(recurse=False))
    ]
    if not names:
        raise ModelError(
            "train.statistics: no convolution and no linear layer of the model is trained, so there"
            " are no channels to rank; leave it out"
        )
    return names


def check_selection(selector: Selector, adjust: Adjustments) -> None:
    """Refuse what gives some rows no chance: no weight makes up for them.

    Raises:
        ValueError: The selector is one of these.
    """
    if isinstance(selector, _PARTIAL) and not adjust.explore:
        raise ValueError(
            f"train.statistics: {type(selector).__name__} never selects some of the rows, and what "
            "is never trained counts nothing, whatever the weights; set adjust.explore above 0, "
            "take another selector, or leave train.statistics out: `raysb prune` makes a pass of "
            "its own then"
        )


def _sum(states: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    found = [Statistics.from_state(state) for state in states if state is not None]
    for other in found[1:]:
        found[0].merge(other)
    return found[0].state_dict() if found else None
