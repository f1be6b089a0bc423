"""What the benchmarks train: rows, nets, the stream over them, and the window that is timed.

Dimensions in comments: N rows, H and W pixels, C channels.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from raysb.losses import cross_entropy
from raysb.nn.registry import build_model
from raysb.nn.settings import Model
from raysb.scoring.settings import Scoring
from raysb.selection import Selector
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.stream import SelectiveStream
from raysb.task import Task
from raysb.training.learner import Learner

SHAPES: dict[str, tuple[int, ...]] = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
CLASSES = 10
BATCH = 64
# Rows of a pool on Ray. A pool costs it 30 to 70 ms of CPU time whatever is in it, so that a net of
# which 512 rows take less than that wants more of them, and older scores are their price.
RAY_POOLS = (512, 2048)


def synthetic_rows(shape: tuple[int, ...], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Ten noisy prototypes, a fifth of the labels wrong: losses stay apart, as on real data.

    Returns:
        `image` uint8 [N, H, W, C] and `label` int64 [N].
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 128, size=(CLASSES, *shape), dtype=np.uint8)
    label = rng.integers(CLASSES, size=count)
    image = rng.integers(0, 128, size=(count, *shape), dtype=np.uint8) + prototypes[label]
    wrong = rng.random(count) < 0.2
    label[wrong] = rng.integers(CLASSES, size=int(wrong.sum()))
    return {"image": image, "label": label.astype(np.int64)}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A net on rows of one shape.

    Args:
        net: Name of a model of raysb.
        shape: (H, W, C) of an image.
        count: Rows of an epoch.
        data: Parquet to read the rows from; `None` makes them up.
    """

    net: str
    shape: tuple[int, ...]
    count: int
    data: str | None = None

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.net} {'x'.join(map(str, self.shape))}"

    def rows(self) -> dict[str, np.ndarray]:
        """All rows in memory."""
        if self.data is None:
            return synthetic_rows(self.shape, self.count)
        source = open_sources(Data(train=self.data), seed=0).train
        batch = source.read(None, 0, self.count)
        return {"image": batch["image"], "label": batch["label"].astype(np.int64)}

    def stream(self, selector: Selector, name: str = "train", **scoring: Any) -> SelectiveStream:
        """The stream over the rows; its `spec` is what the other engines take."""
        build = partial(
            build_model, Model(name=self.net), image_shape=self.shape, num_classes=CLASSES
        )
        return SelectiveStream(
            self.rows(),
            model=build,
            loss=cross_entropy("label"),
            selector=selector,
            scoring=Scoring(**{"batch_size": RAY_POOLS[0], **scoring}),
            data=Data(num_readers=0 if selector.needs_scores else 2),
            name=name,
        )


def look_at(path: str) -> tuple[tuple[int, ...], int]:
    """(H, W, C) of the images of a parquet file, and its rows."""
    source = open_sources(Data(train=path), seed=0).train
    return (*source.read(None, 0, 1)["image"].shape[1:], 1)[:3], source.num_rows


def learner(task: Task, seed: int) -> Learner:
    """Net and optimizer, the same in every arm."""
    model = task.build(seed)
    return Learner(task, model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


@dataclass
class Trace:
    """Times the steps between two positions of a stream, where its pipeline is full.

    Before the first position the pipeline fills and kernels are prepared; after the last one it
    drains. A position counts rows in the order of the pools: scored ones where rows are scored.

    Args:
        first: Position at which the clock starts.
        last: Position at which it stops.
        look: Called at both positions, e.g. to read the CPU time of all processes.
    """

    first: int
    last: int
    look: Callable[[], Any] | None = None
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    over: bool = False

    def note(self, position: int, waited_s: float) -> None:
        """A step is done: with the rows before `position`, after so many seconds of waiting."""
        if position < self.first or self.over:
            return
        self.steps.append((position, time.perf_counter(), waited_s))
        self.over = position >= self.last
        if self.look is not None and (len(self.steps) == 1 or self.over):
            self.seen.append(self.look())

    @property
    def seconds(self) -> float:
        """Between the two positions."""
        self._check()
        return self.steps[-1][1] - self.steps[0][1]

    @property
    def rows(self) -> int:
        """Between the two positions."""
        self._check()
        return self.steps[-1][0] - self.steps[0][0]

    @property
    def waited(self) -> float:
        """Share of the seconds spent waiting for rows."""
        return (self.steps[-1][2] - self.steps[0][2]) / self.seconds

    def _check(self) -> None:
        if len(self.steps) < 5 or not self.over:
            raise RuntimeError(
                f"{len(self.steps)} steps between rows {self.first} and {self.last}: too few to "
                "time; give the arm more rows"
            )
