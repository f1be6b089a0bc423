"""All that a stream is made of; small enough to be sent to every process of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from raysb.schema import Batch, Source
from raysb.scoring.limits import Limits, limits_for
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop, Selector, Uniform
from raysb.source.augment import Augmentation, augment, none
from raysb.source.open import Sources
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.task import Forward, PerSampleLoss, Task, inputs
from raysb.training.reading import Reading

# Batches in a pool that is not scored: a block's price is paid once for all. Of few rows it is
# less, since workers differ by one pool at the end, which the last steps are padded for.
TRANSPORT_BATCHES = 16


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What is read, scored, selected and trained.

    Args:
        source: Rows by number.
        task: How a batch reaches the model, and the loss.
        selector: Chooses by score, or `Uniform`.
        scoring: Size, number and precision of the scorers.
        augmentation: Applied to images before scoring.
        inputs: Columns that the model sees, and to whose images it applies.
        num_readers: Processes that read and decode.
        seed: Of order, augmentation, draws and initial weights.
        name: Under which the workers find the stream.
    """

    source: Source
    task: Task
    selector: Selector
    scoring: Scoring
    augmentation: Augmentation = none
    inputs: tuple[str, ...] = ()
    num_readers: int = 2
    seed: int = 0
    name: str = "train"

    def __post_init__(self) -> None:
        selector = self.selector
        if not (self.scored or selector.preselects or isinstance(selector, Uniform)):
            raise ValueError(
                f"{type(selector).__name__} selects without scores and does not preselect: where "
                "nothing is scored, all rows are trained, and it would never be asked. Give it "
                "`preselects = True` and `preselect`, or use Uniform"
            )
        if selector.trains_unscored and self.task.extra:
            raise ValueError(
                f"extra={sorted(self.task.extra)} with {type(selector).__name__}, which trains "
                "rows that are not scored: they would have no such columns. Leave them out, or "
                "take a selector that scores every row"
            )
        if self.num_readers == 0 and not self.scored:
            raise ValueError(
                "data.num_readers=0 with a selector that scores nothing: there would be no scorer "
                "to read, and no row would arrive. Set data.num_readers=1 or more"
            )

    @classmethod
    def of(
        cls,
        sources: Sources,
        data: Data,
        *,
        model: Callable[[], nn.Module],
        loss: PerSampleLoss,
        forward: Forward | None = None,
        selector: Selector | None = None,
        scoring: Scoring | None = None,
        seed: int = 0,
        name: str = "train",
        **task: Any,
    ) -> "StreamSpec":
        """The stream of opened sources, with the defaults that the public classes document.

        Args:
            sources: Opened, with what was measured on them.
            data: The settings they were opened with.
            model: Builds the module.
            loss: One per sample.
            forward: By default the model is called with `data.inputs`, images normalised.
            selector: By default `SelectiveBackprop()`.
            scoring: By default `Scoring()`.
            seed: Of order, augmentation, draws and initial weights.
            name: Of the stream.
            **task: `correct`, `extra`, `collate`, `step` of the `Task`.
        """
        return cls(
            source=sources.train,
            task=Task(
                model=model,
                forward=forward or inputs(*data.inputs, mean=sources.mean, std=sources.std),
                loss=loss,
                **{key: value for key, value in task.items() if value is not None},
            ),
            selector=selector or SelectiveBackprop(),
            scoring=scoring or Scoring(),
            augmentation=augment(data.augment),
            inputs=data.inputs,
            num_readers=data.num_readers,
            seed=seed,
            name=name,
        )

    @property
    def scored(self) -> bool:
        """Whether rows are scored at all."""
        return self.selector.needs_scores

    @property
    def has_history(self) -> bool:
        """Whether anything is recorded per sample."""
        return self.scored or self.selector.records_backward

    def pool_rows(self, batch_size: int) -> int:
        """Rows of a pool: what is scored at once, or what travels at once where nothing is."""
        if self.scored:
            return self.scoring.batch_size
        return max(batch_size, min(TRANSPORT_BATCHES * batch_size, self.source.num_rows // 16))

    def plan(self, batch_size: int, epochs: int) -> PoolPlan:
        """The pools of a run."""
        return PoolPlan(
            num_rows=self.source.num_rows, pool_rows=self.pool_rows(batch_size), epochs=epochs
        )

    def limits(self, batch_size: int, num_workers: int) -> Limits:
        """What the ledger is to enforce.

        Raises:
            ValueError: `scoring.max_staleness_steps` is below the smallest bound of these sizes.
        """
        return limits_for(
            self.scoring.max_staleness_steps if self.scored else "auto",
            pool_rows=self.pool_rows(batch_size),
            batch_size=batch_size,
            num_workers=num_workers,
            num_actors=self.scoring.num_actors if self.scored else self.num_readers,
            publish_every=self.scoring.publish_every,
        )

    @property
    def reading(self) -> Reading:
        """The part that readers need."""
        return Reading(
            source=self.source,
            selector=self.selector,
            augmentation=self.augmentation,
            inputs=self.inputs,
            num_readers=self.num_readers,
            seed=self.seed,
        )

    def read(self, plan: PoolPlan, pool: int) -> Batch:
        """All rows of a pool, decoded and augmented."""
        return self.reading.read(plan, pool)
