"""What an epoch takes, from what a row takes: arithmetic only.

Training on a row costs 1, scoring it r, and a share s of the rows is trained:

    gain = 1 / (r + s)      break-even: s = 1 - r

Dimensions: S scorers, W trainers, P processors of one kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# CPU seconds that the way through Ray adds to each row, in all processes together: 322 us of scorer
# and trainer and 108 of the others, where one process takes 236 (README.md, cnn, pools of 512 rows)
RAY_S = 1.9e-4


@dataclass(frozen=True, kw_only=True)
class RowCosts:
    """Seconds that one process takes for a row.

    Args:
        read: To read, decode and augment it, at least 0.
        score: To score it where it is trained: forward pass, ranking and record, at least 0.
        train: To train on it: batch, forward and backward pass, its share of a step; above 0.
        elsewhere: To score it in a process of its own; none: as `score`.

    Raises:
        ValueError: A number is out of its range.
    """

    read: float
    score: float
    train: float
    elsewhere: float | None = None

    def __post_init__(self) -> None:
        for name in ("read", "score", "train"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name == "train" and value == 0):
                allowed = "above 0" if name == "train" else "at least 0"
                raise ValueError(f"RowCosts({name}={value!r}): must be a finite number {allowed}")

    @property
    def ratio(self) -> float:
        """r, what a scored row costs where a trained one costs 1."""
        return self.score / self.train

    @property
    def break_even(self) -> float:
        """1 - r, the kept fraction below which scoring every row pays in one process.

        Reading costs either side the same and is not in it. 0 or less: scoring never pays.
        """
        return 1 - self.ratio

    @property
    def uniform(self) -> float:
        """Seconds for a row of uniform training: it is read and trained."""
        return self.read + self.train

    @property
    def scored_elsewhere(self) -> float:
        """Seconds to score a row in a process of its own."""
        return self.score if self.elsewhere is None else self.elsewhere


@dataclass(frozen=True, kw_only=True)
class Work:
    """What happens to the rows of an epoch, each as a share of all, at least 0.

    Args:
        read: Rows that are read and decoded.
        scored: Rows that are scored.
        kept: Rows that are trained.
    """

    read: float = 1.0
    scored: float = 1.0
    kept: float = 1.0


UNIFORM = Work(read=1.0, scored=0.0, kept=1.0)


@dataclass(frozen=True, kw_only=True)
class Processors:
    """Who computes.

    Args:
        scorers: S, at least 1.
        trainers: W, at least 1.
        uniform: Processors that uniform training could use in the place of both; 0: S + W. Fewer
            where scorers run on what trains nobody, as CPUs beside a GPU.
        cores: P of the machine, which scorers, trainers and Ray share; 0: they share nothing.
    """

    scorers: float = 1.0
    trainers: float = 1.0
    uniform: float = 0.0
    cores: float = 0.0

    @property
    def of_uniform(self) -> float:
        """Processors of uniform training."""
        return self.uniform or self.scorers + self.trainers


def mean_work(epochs: Sequence[Work]) -> Work:
    """The mean of some epochs, at least one."""
    count = len(epochs)
    return Work(
        read=sum(each.read for each in epochs) / count,
        scored=sum(each.scored for each in epochs) / count,
        kept=sum(each.kept for each in epochs) / count,
    )


def seconds_together(work: Work, costs: RowCosts) -> float:
    """Seconds for each row of the data in one process that reads, scores and trains."""
    return work.read * costs.read + work.scored * costs.score + work.kept * costs.train


def gain(work: Work, costs: RowCosts) -> float:
    """Uniform's seconds over these, in one process: above 1 it pays per epoch."""
    return costs.uniform / seconds_together(work, costs)


def gain_at_best(work: Work) -> float:
    """The bound of `gain_apart` against the trainers alone, for any number of scorers: 1 / s.

    What is trained is not sped up by scorers, as in Amdahl's law; rows are read elsewhere for both.
    """
    return 1 / work.kept if work.kept else math.inf


def seconds_apart(
    epochs: Sequence[Work], costs: RowCosts, processors: Processors, ray: float = RAY_S
) -> float:
    """Seconds for each row of the data and epoch, with scorers and trainers side by side.

        max((read + scored) / S, trained / W, (all of it + what Ray adds) / P)

    of each epoch by itself: what is scored in one is not trained in another. Who scores also reads.

    Args:
        epochs: One or more, whose mean is taken.
        costs: Of a row.
        processors: Who computes.
        ray: Seconds that the way through Ray adds for a row that is read.
    """
    return sum(_epoch_apart(each, costs, processors, ray) for each in epochs) / len(epochs)


def _epoch_apart(work: Work, costs: RowCosts, processors: Processors, ray: float) -> float:
    scoring = work.read * costs.read + work.scored * costs.scored_elsewhere
    training = work.kept * costs.train
    slowest = max(scoring / processors.scorers, training / processors.trainers)
    if processors.cores:
        slowest = max(slowest, (scoring + training + work.read * ray) / processors.cores)
    return slowest


def gain_apart(
    epochs: Sequence[Work], costs: RowCosts, processors: Processors, ray: float = RAY_S
) -> float:
    """Seconds of uniform training on all of the processors, the scorers' included, over these.

    Uniform training is taken to scale perfectly: what is compared with is not made slow.
    """
    uniform = costs.uniform / processors.of_uniform
    return uniform / seconds_apart(epochs, costs, processors, ray)


def scorers_needed(epochs: Sequence[Work], costs: RowCosts, trainers: float = 1.0) -> int:
    """Scorers with which W trainers never wait, in the epoch that asks most of them; at least 1."""
    most = 0.0
    for each in epochs:
        scoring = each.read * costs.read + each.scored * costs.scored_elsewhere
        most = max(most, trainers * scoring / max(each.kept * costs.train, 1e-30))
    return max(math.ceil(most - 1e-9), 1)


def best_split(
    epochs: Sequence[Work], costs: RowCosts, cores: int, ray: float = RAY_S
) -> Processors | None:
    """The scorers and trainers among some cores that end first; `None` of fewer than two cores."""
    splits = [
        Processors(scorers=s, trainers=cores - s, cores=cores, uniform=cores)
        for s in range(1, cores)
    ]
    return min(splits, key=lambda p: seconds_apart(epochs, costs, p, ray), default=None)
