"""`raysb train --dry-run`: one batch through every stage, in this process, and nothing left behind.

The stages are plain numpy and torch, and the same ones that actors and workers run on Ray. What
only several processes can show is not tried, and is named.
"""

import random
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from raysb.cluster import cluster_resources, connected, prepare_environment
from raysb.config import Config
from raysb.device import device_here
from raysb.equality import difference
from raysb.errors import RaysbError
from raysb.history.ring import LossRing
from raysb.history.table import LossTable
from raysb.job import TrainingJob
from raysb.layout import size
from raysb.local import LocalStream
from raysb.needs import needs_of
from raysb.placement import range_text
from raysb.prepare import prepare
from raysb.schema import CORRECT, ID, LOSS, POOL, Batch, Source, num_rows
from raysb.scoring.forward import Scores
from raysb.seeding import Draws
from raysb.selection.stage import SelectedPool, select_pool
from raysb.training.checkpoint import load, save
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange
from raysb.training.generators import rng_state, set_rng_state
from raysb.training.learner import Learner
from raysb.training.parallel import devices_of
from raysb.training.schedule import Budget
from raysb.training.strategies import PIPELINE, in_one_process

WIDTH = 100
HEADER = f"{'stage':<11}{'seconds':>8}{'bytes':>10}  what"


class Stage(NamedTuple):
    """What one stage gave."""

    name: str
    said: str
    num_bytes: int | None
    seconds: float | None

    def text(self) -> str:
        """A line of the table, and more below it where what there is to say is long."""
        seconds = "-" if self.seconds is None else f"{self.seconds:.4f}"
        num_bytes = "-" if self.num_bytes is None else size(self.num_bytes)
        head = f"{self.name:<11}{seconds:>8}{num_bytes:>10}  "
        return textwrap.fill(
            self.said,
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )


@dataclass(frozen=True)
class First:
    """The first rows of a source."""

    source: Source
    num_rows: int

    def read(self, epoch: int | None, start: int, stop: int) -> Batch:
        """Rows of the source."""
        return self.source.read(epoch, start, stop)


def dry_run(config: Config, *, verbose: bool = False) -> Iterator[str]:
    """The table, each line as soon as its stage is over.

    Args:
        config: The run's.
        verbose: Leave Ray's own output on.

    Raises:
        ResourceError: The cluster has fewer CPUs or GPUs than asked for.
        RaysbError: A stage fails, or what was restored is not what was saved.
    """
    prepare_environment(verbose)  # before anything loads Ray
    prepared = prepare(config, verbose=verbose)
    asked = [_resources(config, prepared.job).text()] if config.engine == "ray" else []
    yield from (HEADER, *asked)
    for stage in DryRun(prepared.job, together=config.engine == "local").stages():
        yield stage.text()
    yield f"not tried: {_not_tried(config)}"
    yield "nothing was left behind"


def _resources(config: Config, job: TrainingJob) -> Stage:
    """Ask the cluster at hand, or one of our own that ends at once, as a run does."""
    start = time.perf_counter()
    with connected(config.address, verbose=job.verbose):
        from raysb.ray_engine import check_job

        check_job(job)
        there = cluster_resources()
    needs = needs_of(config, there).values()
    asked = {"CPU": sum(need[0] for need in needs), "GPU": sum(need[1] for need in needs)}
    said = ", ".join(f"{n:g} of {there.get(kind, 0.0):g} {kind}s" for kind, n in asked.items())
    said = f"{said} on Ray{_as_there_is_room(config)}"
    return Stage("resources", said, None, time.perf_counter() - start)


def _as_there_is_room(config: Config) -> str:
    """What a run may take besides, where numbers are a pair."""
    pairs = {
        "scorers": config.scoring.num_actors if config.selector.needs_scores else 1,
        "workers": config.train.num_workers,
    }
    said = [f"{range_text(n)} {who}" for who, n in pairs.items() if isinstance(n, tuple)]
    return f" at least; {' and '.join(said)} as there is room" if said else ""


def _not_tried(config: Config) -> str:
    """What only the run itself shows."""
    if config.engine == "local":
        return "the remaining batches, and the folder of the run"
    train = config.train
    among = ""
    if train.max_workers > 1:
        workers = range_text(train.num_workers)
        among = f", how {workers} workers share a step ({train.strategy})"
    return f"actors and the way of rows and weights between them{among}, the folder of the run"


class DryRun:
    """One pool, and one batch of it, through the stages.

    Args:
        job: The run.
        together: One process trains the rows of all workers, as the local engine does; else the
            step is that of one worker.
    """

    def __init__(self, job: TrainingJob, *, together: bool = True) -> None:
        self._job = job
        self._spec, self._workers = job.spec, job.training.max_workers
        self._training = replace(in_one_process(job.training), compile=False)
        self._rows = job.training.batch_size * (self._workers if together else 1)
        self._rows = max(self._rows, self._training.batch_size)
        self._share = self._shared(together)
        if job.training.num_threads:
            torch.set_num_threads(job.training.num_threads)
        self._device = device_here(job.training.use_gpu)
        self._plan = self._spec.plan(self._rows, job.training.epochs)
        self._model = self._spec.task.build(self._spec.seed).to(self._device)
        self._seconds = 0.0

    def _shared(self, together: bool) -> str:
        """Whose rows a step is made of, where there are several workers."""
        training, workers = self._job.training, range_text(self._job.training.num_workers)
        if self._workers == 1:
            return ""
        if together:
            return f" ({workers} workers)"
        share = "" if training.strategy == PIPELINE else "each of "
        return f" ({share}{workers} workers, {training.strategy})"

    def stages(self) -> Iterator[Stage]:
        """Run them one after the other."""
        with self._timed():
            pool = self._spec.read(self._plan, 0)
        yield self._stage("read", f"a pool: {shapes(pool)}", pool)
        if self._spec.scored:
            yield from self._scored(pool)
        else:
            said = "nothing: selector.kind=uniform trains on every row"
            yield from (Stage(name, said, None, None) for name in ("score", "history", "select"))
        learner, stream = self._learner(self._model)
        yield self._train(learner, stream)
        yield self._evaluate()
        with tempfile.TemporaryDirectory(prefix="raysb-") as folder:
            yield from self._checkpoint(Path(folder), learner, stream)

    def _scored(self, pool: Batch) -> Iterator[Stage]:
        spec = self._spec
        with self._timed():
            scores = spec.pool_scoring.score_cheaply(self._model, pool)
        columns = {LOSS: scores.losses} | scores.extra
        columns |= {} if scores.correct is None else {CORRECT: scores.correct}
        yield self._stage("score", f"{shapes(columns)}, in {spec.scoring.dtype}", columns)
        ring, table = spec.ring(), LossTable(spec.source.num_rows)
        window = ring.window()
        start = time.perf_counter()
        selected = self._select(pool, scores, window)
        seconds = time.perf_counter() - start
        with self._timed():
            self._remember(ring, table, pool, scores, selected)
        known = f"{len(table):,} of {spec.source.num_rows:,} ids"
        said = f"{known}, the last {len(ring):,} of {ring.capacity:,} losses to rank against"
        yield Stage("history", said, table.nbytes + 4 * len(ring), self._seconds)
        new = {name: c for name, c in selected.batch.items() if name not in pool}
        kept = f"{num_rows(selected.batch):,} of {num_rows(pool):,} rows"
        yield Stage("select", f"{kept}: {shapes(new)}", nbytes(selected.batch), seconds)

    def _select(self, pool: Batch, scores: Scores, window: Any) -> SelectedPool:
        return select_pool(
            self._spec.selector,
            {**pool, **scores.extra},
            scores.losses,
            correct=scores.correct,
            scores=scores.ranked,
            window=window,
            draws=Draws(seed=self._spec.seed, epoch=0),
            weights_step=0,
        )

    def _remember(
        self, ring: LossRing, table: LossTable, pool: Batch, scores: Scores, selected: SelectedPool
    ) -> None:
        ring.record(int(pool[POOL][0]), scores.scores)
        table.record(
            pool[ID].astype(np.int64, copy=False),
            scores.losses,
            correct=scores.correct,
            selected=selected.selected,
            weights_step=0,
            epoch=0,
        )

    def _learner(self, model: nn.Module) -> tuple[Learner, LocalStream]:
        devices = devices_of(self._device)
        learner = Learner.build(
            self._spec.task, model, self._training, devices, self._job.optimizer
        )
        return learner, LocalStream(self._spec, device=self._device)

    def _train(self, learner: Learner, stream: LocalStream) -> Stage:
        """One step, on a batch that came the whole way by itself."""
        training = self._training
        budget = Budget(training=training, rows_per_epoch=self._spec.source.num_rows)
        factor = budget.factor(budget.progress(epochs=0.0, step=0))
        batches = stream.iter_batches(
            batch_size=self._rows, epochs=training.epochs, model=learner.module
        )
        batch = next(batches, None)
        if batch is None:
            raise RaysbError(
                "dry run: a whole epoch gave no row to train on: every loss is NaN or infinite, or "
                "the selector kept none"
            )
        with self._timed():
            learner.step(stream, batch, factor)
        loss, rows = stream.take_train_loss()
        columns = {name: value.cpu().numpy() for name, value in batch.items()}
        inputs = {n: c for n, c in columns.items() if n in self._spec.inputs} or columns
        said = f"{rows} rows{self._share}: {shapes(inputs)}; loss {loss / max(rows, 1):.4g}"
        return self._stage("train", f"{said}, {self._parameters()}", columns)

    def _parameters(self) -> str:
        learned = [p for p in self._model.parameters() if p.requires_grad]
        moved = sum(p.grad is not None for p in learned)
        count = sum(p.numel() for p in learned)
        return f"{count:,} parameters on {self._device}, {moved} of {len(learned)} got a gradient"

    def _evaluate(self) -> Stage:
        held, at_once = self._job.held_out, self._job.evaluation.batch_size
        if held is None:
            return Stage("evaluate", "nothing: no rows are held out", None, None)
        first = First(held, min(at_once, held.num_rows))
        with self._timed():
            metrics = evaluate(
                self._spec.task, self._model, first, Exchange(alone=True), batch_size=at_once
            )
        figures = ", ".join(f"{k.removeprefix('eval/')} {v:.4g}" for k, v in metrics.items())
        said = f"{first.num_rows:,} of {held.num_rows:,} rows: {figures}"
        return self._stage("evaluate", said, first.read(None, 0, first.num_rows))

    def _checkpoint(self, folder: Path, learner: Learner, stream: LocalStream) -> Iterator[Stage]:
        state = stream.state_dict()
        history = state.pop("history")
        saved = {"stream": state, "history": history, "learner": learner.state_dict()}
        with self._timed():
            rngs = {"rngs": [rng_state()]}
            save(
                folder / "checkpoint",
                model=self._model,
                **saved | {"learner": saved["learner"] | rngs},
            )
        files = {p.name: p.stat().st_size for p in sorted((folder / "checkpoint").iterdir())}
        said = ", ".join(f"{name} {size(count)}" for name, count in files.items())
        yield Stage("checkpoint", said, sum(files.values()), self._seconds)
        saved |= {"model": self._model.state_dict(), "random state": rng_state()}
        with self._timed():
            restored = self._restore(folder / "checkpoint")
        if different := difference(saved, restored):
            raise RaysbError(
                f"dry run: what the checkpoint restores is not what it saved: {different}. A run "
                "that is resumed would go on from another state; look at the state_dict and "
                "load_state_dict of the model or the optimizer"
            )
        said = f"equal to what was saved: {', '.join(sorted(saved))}"
        yield Stage("restore", said, sum(files.values()), self._seconds)

    def _restore(self, folder: Path) -> dict[str, Any]:
        """Everything read back into other objects, as they hold it then."""
        other = self._spec.task.build(self._spec.seed).to(self._device)
        _disturb(other)
        found = load(folder, model=other)
        learner, stream = self._learner(other)
        learner.load_state_dict(found["learner"])
        set_rng_state(found["learner"]["rngs"][0])
        stream.load_state_dict({**found["stream"], "history": found["history"]})
        state = {
            "cursor": stream.cursor.state_dict(),
            "counters": found["stream"]["counters"],
            "ledger": stream.ledger.state_dict(),
            "outlooks": stream.outlook_states(),
        }
        return {
            "model": other.state_dict(),
            "learner": learner.state_dict(),
            "stream": state,
            "history": stream.history.state_dict(),
            "random state": rng_state(),
        }

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds = time.perf_counter() - start

    def _stage(self, name: str, said: str, columns: Batch) -> Stage:
        return Stage(name, said, nbytes(columns), self._seconds)


def _disturb(model: nn.Module) -> None:
    """Move weights and random states, so that only the checkpoint can bring them back."""
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, model.parameters()):
            parameter.add_(1.0)
    torch.rand(1)
    random.random()


def shapes(batch: Mapping[str, Any]) -> str:
    """Names, dtypes and shapes of columns, e.g. `image uint8 [256, 28, 28, 1]`."""
    return ", ".join(f"{k} {c.dtype} {list(c.shape)}" for k, c in batch.items())


def nbytes(batch: Mapping[str, Any]) -> int:
    """Bytes of all columns."""
    return sum(int(column.nbytes) for column in batch.values())
