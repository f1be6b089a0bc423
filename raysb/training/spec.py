"""All that a stream is made of; small enough to be sent to every process of a run."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import nn

from raysb.history.ring import LossRing
from raysb.losses import CrossEntropy
from raysb.schema import ID, LOSS, Arranged, Batch, Indexed, Source
from raysb.scoring.agreement import Audits, audit_every
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits, limits_as_grown
from raysb.scoring.proxy import Proxy, find_proxy
from raysb.scoring.registry import find_score
from raysb.scoring.scores import Score
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop, Selector, Uniform
from raysb.selection.adjustments import UNCHANGED, Adjustments
from raysb.selection.counted import CountedRing
from raysb.selection.scorer import PoolScoring
from raysb.source.augment import Augmentation, augment, none
from raysb.source.irreducible import IrreducibleLosses
from raysb.source.open import Sources
from raysb.source.plan import PoolPlan
from raysb.source.settings import Data
from raysb.source.spans import bytes_of, rows_of_span
from raysb.task import Forward, PerSampleLoss, Task, describe_callable, inputs
from raysb.training.reading import Reading

# Batches in a pool that is not scored, at most: a block costs Ray 15 to 25 ms of CPU time, whatever
# is in it. Of few rows it is a sixteenth: workers differ by one pool at the end, and the last steps
# are padded for it. Of large rows it is what an object of Ray's should hold.
TRANSPORT_BATCHES = 64
_SAMPLED = 64  # ids from either end of the data


def losses_of(data: Data) -> IrreducibleLosses | None:
    """The irreducible losses that the settings name."""
    return None if data.irreducible is None else IrreducibleLosses.load(data.irreducible)


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What is read, scored, selected and trained.

    Args:
        source: Rows by number.
        task: How a batch reaches the model, and the loss.
        selector: Chooses by score, or `Uniform`.
        scoring: Size, number and precision of the scorers.
        adjust: Changes of what the selector chooses.
        irreducible: Losses that the score `reducible_loss` takes off, by id.
        augmentation: Applied to images before scoring.
        inputs: Columns that the model sees, and to whose images it applies.
        num_readers: Processes that read and decode.
        seed: Of order, augmentation, draws and initial weights.
        name: Under which the workers find the stream.

    Attributes:
        by: What is ranked.
        proxy: Scores in place of the model that is trained.

    Raises:
        ModelError: `scoring.proxy` does not fit the model, or is none.
        ValueError: The parts do not go together.
    """

    source: Source
    task: Task
    selector: Selector
    scoring: Scoring
    adjust: Adjustments = UNCHANGED
    irreducible: IrreducibleLosses | None = None
    augmentation: Augmentation = none
    inputs: tuple[str, ...] = ()
    num_readers: int = 2
    seed: int = 0
    name: str = "train"
    by: Score = field(init=False)
    proxy: Proxy | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        selector = self.selector
        if not (self.scored or selector.preselects or isinstance(selector, Uniform)):
            raise ValueError(
                f"{type(selector).__name__} selects without scores and does not preselect: where "
                "nothing is scored, all rows are trained, and it would never be asked. Give it "
                "`preselects = True` and `preselect`, or use Uniform"
            )
        self._check_adjustments()
        object.__setattr__(self, "by", self._find_score())
        if selector.needs_accuracy:
            self._check_accuracy()
        if self.scored and selector.records_backward and self.scoring.proxy is not None:
            raise ValueError(
                f"scoring.proxy={self.scoring.proxy!r} with {type(selector).__name__}: losses of "
                "training steps, of the live model, would be ranked among those of another one. "
                "Leave it out, or take a selector that scores every row"
            )
        if self.scored and self.scoring.proxy is not None:
            live = partial(self.task.build, self.seed)
            object.__setattr__(self, "proxy", find_proxy(self.scoring.proxy, live))
        if self.scored and selector.records_backward and self.scoring.image_scale < 1:
            raise ValueError(
                f"scoring.image_scale={self.scoring.image_scale} with {type(selector).__name__}: "
                "losses of training steps, at full size, would be ranked among those of small "
                "pictures. Set 1, or take a selector that scores every row"
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

    def _check_adjustments(self) -> None:
        adjust, selector = self.adjust, type(self.selector).__name__
        if adjust == UNCHANGED:
            return
        if not self.scored or self.selector.trains_unscored:
            raise ValueError(
                f"adjust={adjust} with {selector}: rows that are trained without being scored are "
                "chosen before anything could be adjusted. Leave adjust.* out, or take a selector "
                "that scores every row"
            )
        if adjust.needs_classes and not isinstance(self.task.loss, CrossEntropy):
            raise ValueError(
                f"adjust.class_floor={adjust.class_floor}: needs raysb.losses.cross_entropy, whose "
                "target names the classes; with another loss they are not known. Set 0"
            )

    def _check_accuracy(self) -> None:
        if not self.task.tells_right_from_wrong:
            raise ValueError(
                f"{self.selector}, which follows training accuracy, with the loss "
                f"{describe_callable(self.task.loss)}, which has no method `correct`: nothing "
                "would be known, and every row kept. Give correct=(outputs, batch) -> bool [B], "
                "take a loss over classes, or another selector (ordered_sgd: selector.fraction=0.5)"
            )
        if self.scoring.proxy is not None:
            raise ValueError(
                f"scoring.proxy={self.scoring.proxy!r} with {self.selector}, which follows "
                "training accuracy: what is known would be the accuracy of the proxy, which does "
                "not train. Leave it out, or take another selector (ordered_sgd: "
                "selector.fraction=0.5)"
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
        adjust: Adjustments | None = None,
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
            adjust: By default nothing.
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
            adjust=adjust or UNCHANGED,
            irreducible=losses_of(data),
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
    def awaits_epochs(self) -> bool:
        """Whether an epoch is chosen by what all epochs before it have left in the history."""
        return self.selector.looks_back or self.adjust.needs_times_selected

    @property
    def has_history(self) -> bool:
        """Whether anything is recorded per sample."""
        return self.scored or self.selector.records_backward

    def pool_rows(self, batch_size: int) -> int:
        """Rows of a pool: what is scored at once, or what travels at once where nothing is."""
        if self.scored:
            return self.scoring.batch_size
        count = self.source.num_rows
        rows = rows_of_span(self._first_row, num_rows=count, batch_size=batch_size, processes=2)
        return min(TRANSPORT_BATCHES * batch_size, rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of the first row as it is read."""
        return bytes_of(self._first_row)

    @cached_property
    def _first_row(self) -> Batch:
        """One row, whose bytes say how many can travel at once; read once and then sent along."""
        return self.source.read(None, 0, 1)

    def plan(self, batch_size: int, epochs: int) -> PoolPlan:
        """The pools of a run."""
        return PoolPlan(
            num_rows=self.source.num_rows, pool_rows=self.pool_rows(batch_size), epochs=epochs
        )

    def identity(self, batch_size: int) -> dict[str, Any]:
        """What decides which rows are in which pool and what is ranked, as JSON."""
        return {
            "num_rows": self.source.num_rows,
            "pool_rows": self.pool_rows(batch_size),
            "seed": self.seed,
            "score": self.by.name if self.scored else None,
            "scorer": self._scorer() if self.scored else None,
            "selector": repr(self.selector) if self.selector.preselects else None,
            "ids": self._some_ids(),
            "order": self.source.arrangement() if isinstance(self.source, Arranged) else None,
        }

    def _scorer(self) -> str:
        """What the scores are of: those of another model or precision are not ranked among them."""
        scoring = self.scoring
        of = "the live model" if scoring.proxy is None else f"proxy {scoring.proxy}"
        return f"{of} in {scoring.dtype}, pictures times {scoring.image_scale:g}"

    def _some_ids(self) -> str:
        """A digest of the first and the last ids, by which other data are noticed."""
        source, count = self.source, min(_SAMPLED, self.source.num_rows)
        digest = hashlib.sha256()
        for start in (0, source.num_rows - count):
            if isinstance(source, Indexed):
                ids = source.index(None, start, start + count)
            else:
                ids = source.read(None, start, start + count)[ID].astype(np.int64)
            digest.update(ids.tobytes())
        return digest.hexdigest()[:16]

    def check_identity(self, saved: Mapping[str, Any], batch_size: int) -> None:
        """Refuse a checkpoint whose pools are other ones.

        Raises:
            ValueError: A setting that must stay as it was is another one now.
        """
        mine = self.identity(batch_size)
        keys = {
            "num_rows": "the rows of data.train",
            "score": "selector.kind or scoring.score",
            "pool_rows": "scoring.batch_size" if self.scored else "train.batch_size",
            "seed": "run.seed",
            "scorer": "scoring.proxy, scoring.dtype and scoring.image_scale",
            "selector": "selector.*",
            "ids": "data.train",
            "order": "data.shuffle_window and the row groups of data.train",
        }
        for name, key in keys.items():
            if saved.get(name, mine[name]) != mine[name]:
                raise ValueError(
                    f"the checkpoint was written with {name}={saved[name]}, this run has "
                    f"{mine[name]}: the rows and scores it names would be others. Leave {key} as "
                    "it was, or start a new run with model.init=RUN_DIR/model.safetensors"
                )

    def limits(self, batch_size: int, num_workers: int) -> Limits:
        """What the ledger is to enforce, with the fewest scorers.

        Raises:
            ValueError: `scoring.max_staleness_steps` is below the smallest bound of these sizes.
        """
        return self.limits_as_grown(batch_size, num_workers)[0]

    def limits_as_grown(self, batch_size: int, num_workers: int) -> tuple[Limits, ...]:
        """What the ledger is to enforce with the fewest scorers, with one more, and so on.

        Raises:
            ValueError: `scoring.max_staleness_steps` is below the smallest bound of these sizes.
        """
        least, most = self.scoring.min_actors, self.scoring.max_actors
        bound = self.scoring.max_staleness_steps
        if not self.has_history or (bound and not self.scored):
            bound = "auto"  # there are no scores of any age
        return limits_as_grown(
            bound,
            pool_rows=self.pool_rows(batch_size),
            batch_size=batch_size,
            num_workers=num_workers,
            num_actors=(least, most) if self.scored else (self.num_readers, self.num_readers),
            publish_every=self.scoring.publish_every,
            starts_fresh=self.scored and self.selector.stalls_on_old_scores,
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
            irreducible=self.irreducible,
        )

    def _find_score(self) -> Score:
        selector, wanted = self.selector, self.scoring.score
        fixed = selector.score != LOSS or selector.records_backward
        if wanted is not None and wanted != selector.score and fixed:
            raise ValueError(
                f"scoring.score={wanted!r} with {type(selector).__name__}, which is defined on "
                f"{selector.score!r}: leave scoring.score out"
            )
        at = getattr(selector, "at", None)
        return find_score(wanted or selector.score, at=at, key="scoring.score")

    def ledger(self) -> Ledger:
        """A new ledger of the stream, with the window of the last scores where there are any."""
        return Ledger(
            ring=self.ring() if self.scored else None,
            rows_per_epoch=self.source.num_rows,
            max_nonfinite_fraction=self.scoring.max_nonfinite_fraction,
            pools_per_epoch=self.plan(1, 1).pools_per_epoch if self.selector.needs_accuracy else 0,
            audits=Audits(self.scoring.min_agreement),
        )

    def ring(self) -> LossRing:
        """A new window of the last scores, as the selector ranks among them."""
        ring = CountedRing if self.selector.counts_losses else LossRing
        return ring(max(self.selector.history, 1))

    @property
    def pool_scoring(self) -> PoolScoring:
        """The part that scorers need."""
        return PoolScoring(
            task=self.task,
            selector=self.selector,
            seed=self.seed,
            by=self.by,
            dtype=self.scoring.dtype,
            image_scale=self.scoring.image_scale,
            proxy=self.proxy,
            adjustments=self.adjust,
            classes=getattr(self.task.loss, "target", None) if self.adjust.needs_classes else None,
            audit_every=audit_every(self.source.num_rows, self.scoring.batch_size),
            publish_every=self.scoring.publish_every,
        )

    def read(self, plan: PoolPlan, pool: int) -> Batch:
        """All rows of a pool, decoded and augmented."""
        return self.reading.read(plan, pool)
