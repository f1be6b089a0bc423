"""Seconds that rows take here: read, scored and trained by the code that a run uses.

All are measured in turn, round by round, and compared within a round: what else the machine does
then slows all of them. Of one thread on a CPU the CPU time of the process is taken, which other
processes do not lengthen much; it does not count waiting for a disk.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import median
from typing import NamedTuple

import torch
from torch import nn

from raysb.device import device_here
from raysb.errors import ModelError
from raysb.job import TrainingJob
from raysb.local import LocalStream
from raysb.planning.choosing import plain, select_seconds
from raysb.planning.costs import RowCosts
from raysb.schema import Batch, num_rows, take
from raysb.scoring.forward import score
from raysb.scoring.registry import SCORES
from raysb.selection import Selector, Uniform
from raysb.selection.adjustments import Adjustments
from raysb.training.learner import Learner
from raysb.training.parallel import devices_of
from raysb.training.spec import StreamSpec
from raysb.training.strategies import in_one_process

SECONDS = 12.0  # to measure for
LEAST_ROUNDS, MOST_ROUNDS = 3, 60
BOUND = "gradient_norm_bound"
PROBE_ROWS = 8
PASS_SECONDS = 0.1
TRAINING = 3  # a trained row, in forward passes
FORWARDS = 8  # what a row of a round takes, in forward passes
EPOCHS = 60_000  # as many as will never be needed


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians of seconds a row.

    Args:
        device: Of the model, `cpu` or `cuda`.
        threads: Of torch.
        clock: What was counted: `CPU` or `wall` seconds.
        rounds: Measured, after one to warm up.
        batch_size: Rows of a step.
        pool_rows: Rows of a pool.
        read: To read, decode and augment.
        forward: By dtype: forward pass in evaluation mode, without gradient.
        bound: The same with the bound of the gradient norm, in the dtype of scoring; none: this
            model has none.
        score: The forward pass of scoring, with ranking, drawing and records, and what a step on
            scored rows takes more than on others.
        train: Batch, forward pass, backward pass, step, of uniform training.
        elsewhere: To score in a process without the model's device; none: as `score`.
        proxy: The model that scores in place of the one that is trained, whose forward passes these
            are; none: the model itself.
    """

    device: str
    threads: int
    clock: str
    rounds: int
    batch_size: int
    pool_rows: int
    read: float
    forward: dict[str, float]
    bound: float | None
    score: float
    train: float
    elsewhere: float | None = None
    proxy: str | None = None

    def costs(self, extra: float = 0.0) -> RowCosts:
        """What a row costs.

        Args:
            extra: Seconds that a selector takes for a scored row more than Selective-Backprop.
        """
        elsewhere = None if self.elsewhere is None else max(self.elsewhere + extra, 0.0)
        score = max(self.score + extra, 0.0)
        return RowCosts(read=self.read, score=score, train=self.train, elsewhere=elsewhere)

    def costs_of(self, selector: Selector) -> RowCosts:
        """What a row costs with a selector: times its `select`, and adds what else it ranks by."""
        if not selector.needs_scores:
            return self.costs()
        extra = select_seconds(selector, self.pool_rows) - select_seconds(plain(), self.pool_rows)
        if getattr(selector, "score", None) == BOUND and self.bound is not None:
            extra += self.bound - self.forward[self.dtype]
        return self.costs(extra)

    @property
    def dtype(self) -> str:
        """The dtype of scoring, the last of those measured."""
        return list(self.forward)[-1]


def measure(job: TrainingJob, *, seconds: float = SECONDS) -> Measured:
    """Measure on the job's own rows, model, loss and optimizer; the weights stay as they are.

    Args:
        job: What a run would train.
        seconds: About how long; a few rounds at least.
    """
    device = device_here(job.training.use_gpu)
    before = torch.get_num_threads()
    torch.set_num_threads(job.training.num_threads or 1)
    try:
        return _Bench(job, device, seconds).run(seconds)
    finally:
        torch.set_num_threads(before)


class _Bench:
    """A stream that scores, one that does not, and what a row takes by itself, in turn."""

    def __init__(self, job: TrainingJob, device: torch.device, seconds: float) -> None:
        spec, training = job.spec, replace(in_one_process(job.training), compile=False)
        self._device, self._threads = device, torch.get_num_threads()
        self._cpu_time = device.type == "cpu" and self._threads == 1
        model = spec.task.build(spec.seed)
        self._batch, pool_rows, self._rows_at_once = self._sizes(
            spec, training.batch_size, copy.deepcopy(model).to(device), seconds
        )
        if self._batch % training.accumulate:
            training = replace(training, accumulate=1)  # of fewer rows than a step has
        self._spec = _keeping_half(spec, pool_rows)
        self._pools = self._spec.pool_scoring
        devices = devices_of(device)
        self._learner = Learner.build(spec.task, model, training, devices, job.optimizer)
        self._scoring = _Stream(self._spec, self._learner, self._batch, self._now)
        uniform = replace(self._spec, selector=Uniform())
        self._uniform = _Stream(uniform, self._learner, self._batch, self._now)
        self._plan = self._spec.plan(self._batch, EPOCHS)
        others = [d for d in ("float32", "bfloat16") if d != spec.scoring.dtype]
        self._dtypes = [*others, spec.scoring.dtype]
        apart = device.type != "cpu" and spec.scoring.num_gpus == 0
        self._cpu_model = spec.task.build(spec.seed) if apart else None
        self._proxy = None if spec.proxy is None else str(spec.scoring.proxy)
        self._has_bound = True

    def _sizes(
        self, spec: StreamSpec, batch_size: int, model: nn.Module, seconds: float
    ) -> tuple[int, int, int]:
        """Rows of a step, of a pool and of a pass: those of the run, unless it took too long."""
        few = spec.read(spec.plan(1, 1), 0)
        few = take(few, slice(0, PROBE_ROWS))
        for _ in range(2):  # the first one warms up
            each = self._time(partial(score, spec.task, model, few)) / num_rows(few)
        most = max(int(seconds / LEAST_ROUNDS / max(FORWARDS * each, 1e-9)), 2)
        most = min(most, spec.source.num_rows)
        batch = max(min(batch_size, most // 2), 1)
        pool = max(min(spec.scoring.batch_size, most), batch)
        # long enough that the caches are those of a run, in which nothing else comes between
        passes = min(max(round(PASS_SECONDS / max(TRAINING * each * pool, 1e-9)), 2), 16)
        return batch, pool, min(passes * pool, max(most, pool))

    def run(self, seconds: float) -> Measured:
        """Rounds until the time is over."""
        self._round(0)  # warms up
        rounds: list[dict[str, float]] = []
        began = time.perf_counter()
        for number in count(1):
            rounds.append(self._round(number))
            enough = time.perf_counter() - began >= seconds and len(rounds) >= LEAST_ROUNDS
            if enough or len(rounds) == MOST_ROUNDS:
                break
        self._scoring.close()
        self._uniform.close()
        return self._summary(rounds)

    def _round(self, number: int) -> dict[str, float]:
        found = self._through_streams()
        pool = number % self._plan.pools_per_epoch
        start = self._now()
        batch = self._spec.read(self._plan, pool)
        rows = num_rows(batch)
        found["read"] = (self._now() - start) / rows
        for dtype in self._dtypes:
            found[dtype] = self._time(partial(self._score, batch, dtype)) / rows
        if self._has_bound:
            found |= self._bound(batch)
        if self._cpu_model is not None:
            if self._pools.proxy is not None:
                self._pools.proxy.beside(self._cpu_model)
            act = partial(self._pools.score_cheaply, self._cpu_model, batch)
            found["cpu"] = self._time(act) / rows
        return found

    def _through_streams(self) -> dict[str, float]:
        """Seconds of a trained row without scoring; of a scored one, what a run with it has more.

        seconds = trained rows x train + scored rows x pool,  of a stream that keeps half
        """
        train = self._uniform.pass_on(self._rows_at_once).alone
        found = self._scoring.pass_on(self._rows_at_once)
        return {"train": train, "pool": (found.seconds - found.trained * train) / found.scored}

    def _score(self, batch: Batch, dtype: str) -> None:
        """As scorers do: by the proxy where there is one."""
        replace(self._pools, dtype=dtype).score_cheaply(self._learner.module, batch)

    def _bound(self, batch: Batch) -> dict[str, float]:
        pools = replace(self._pools, by=SCORES[BOUND])
        try:
            seconds = self._time(partial(pools.score_cheaply, self._learner.module, batch))
            return {"bound": seconds / num_rows(batch)}
        except (ModelError, ValueError):  # a loss or a model that has none
            self._has_bound = False
            return {}

    def _time(self, act: Callable[[], object]) -> float:
        start = self._now()
        act()
        return self._now() - start

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self._cpu_time else time.perf_counter()

    def _summary(self, rounds: Sequence[dict[str, float]]) -> Measured:
        train = median(each["train"] for each in rounds)

        def of(name: str) -> float:
            """As the median share of a trained row in the same round."""
            return train * median(each[name] / each["train"] for each in rounds)

        forward = {dtype: of(dtype) for dtype in self._dtypes}
        chosen = self._dtypes[-1]
        ranked = median((each["pool"] - each["read"]) / each["train"] for each in rounds) * train
        scored = max(ranked, forward[chosen])
        return Measured(
            device=self._device.type,
            threads=self._threads,
            clock="CPU" if self._cpu_time else "wall",
            rounds=len(rounds),
            batch_size=self._batch,
            pool_rows=self._spec.scoring.batch_size,
            read=of("read"),
            forward=forward,
            bound=of("bound") if self._has_bound else None,
            score=scored,
            train=train,
            proxy=self._proxy,
            elsewhere=None if self._cpu_model is None else of("cpu") + scored - forward[chosen],
        )


class _Passed(NamedTuple):
    """What some batches took."""

    trained: int  # rows
    scored: int  # rows
    seconds: float  # in all
    alone: float  # seconds a row of a batch whose fetch neither reads nor scores


class _Stream:
    """Batches of a stream of the local engine, timed one by one; the weights stay as they are."""

    def __init__(
        self, spec: StreamSpec, learner: Learner, batch_size: int, now: Callable[[], float]
    ) -> None:
        device = next(learner.model.parameters()).device
        self._stream, self._learner, self._now = LocalStream(spec, device=device), learner, now
        self._batch_size = batch_size
        self._batches = self._stream.iter_batches(
            batch_size=batch_size, epochs=EPOCHS, model=learner.model
        )

    def pass_on(self, rows: int) -> _Passed:
        """Train until so many more rows were scored, or were trained where none is scored.

        It ends with the step after a fetch that scored, as the pass before did: so it has the
        whole of each pool that it counts.
        """
        stream, fetches, steps = self._stream, list[float](), list[float]()
        scored, before = stream.num_scored, self._done()
        while self._done() - before < rows:
            start = self._now()
            batch = next(self._batches)
            fetched = self._now()
            self._learner.step(stream, batch, 0.0)  # a rate of 0 moves no weight
            fetches.append(fetched - start)
            steps.append(self._now() - fetched)
        # the first step after another part is slow to start: the mean has it, as a run does
        alone = median(sorted(fetches)[: max(len(fetches) // 2, 1)]) + sum(steps) / len(steps)
        return _Passed(
            trained=len(steps) * self._batch_size,
            scored=stream.num_scored - scored,
            seconds=sum(fetches) + sum(steps),
            alone=alone / self._batch_size,
        )

    def _done(self) -> int:
        stream = self._stream
        return stream.num_scored if stream.spec.scored else stream.num_backpropped

    def close(self) -> None:
        """End it."""
        self._batches.close()  # a generator


def _keeping_half(spec: StreamSpec, pool_rows: int) -> StreamSpec:
    """The stream with a selector that scores every row and trains half of them."""
    return replace(
        spec,
        selector=plain(),
        adjust=Adjustments(),
        scoring=replace(spec.scoring, batch_size=pool_rows),
        num_readers=1,
    )
