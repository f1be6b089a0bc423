"""The loop of one Ray Train worker: build, restore, train, save."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from raysb.errors import RunDirectoryError
from raysb.interrupt import listen
from raysb.schema import Batch, Source
from raysb.seeding import key
from raysb.training.audit import Audit
from raysb.training.checkpoints import Checkpoints
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange
from raysb.training.generators import rng_state, seed, set_rng_state
from raysb.training.gpu import OtherGpus, keep_telling, tell_board, told_of
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop, with_scores
from raysb.training.memory import keep_freed_pages
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training
from raysb.training.stages import StreamHandle
from raysb.training.stream import RayStream, worker_device

FLUSH_S = 10.0  # that a checkpoint waits for a driver that writes no metrics


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is to do; passes from the driver to every worker.

    Args:
        stream: Where rows come from.
        training: Epochs, batch size, optimizer, limits.
        evaluation: How often, and with how many rows at once.
        checkpoints: Where they are written, and where the newest is found to go on from.
        optimizer: Class, partial of one, or `(model) -> Optimizer`; `None`: the settings' own.
        held_out: Rows to evaluate on, or `None`.
        on_step: Called after every step, for the audit.
    """

    stream: StreamHandle
    training: Training
    evaluation: Evaluation
    checkpoints: Checkpoints
    optimizer: Any = None
    held_out: Source | None = None
    on_step: Callable[[int, int, Batch], None] | None = None

    @property
    def log(self) -> str:
        """Name of the board's log for lines of metrics."""
        return f"metrics/{self.stream.name}"

    @property
    def outcome(self) -> str:
        """Name on the board of the last line of metrics, there when the run has ended."""
        return f"outcome/{self.stream.name}"


def restore_model(
    checkpoints: Checkpoints, model: nn.Module, exchange: Exchange
) -> dict[str, Any] | None:
    """Bring the model of every worker to one checkpoint, the newest that worker 0 finds.

    What a network disk shows of a folder may differ by machine for a while; workers that each took
    the newest of their own would train on from different steps.

    Args:
        checkpoints: Where they lie.
        model: Gets the weights.
        exchange: Of all workers.

    Returns:
        What else the checkpoint holds; `None` where worker 0 finds none.

    Raises:
        RunDirectoryError: Worker 0's is damaged as this worker reads it.
        OSError: This worker does not find it, or cannot read it.
    """
    own = checkpoints.newest()
    newest = exchange.gather_objects(own)[0]
    if newest is None:
        return None
    try:
        return checkpoints.load(newest, model)
    except (RunDirectoryError, OSError) as error:
        if exchange.rank == 0:
            raise
        seen = any(entry.name == newest.name for entry in checkpoints.entries())
        kind = RunDirectoryError if seen and isinstance(error, RunDirectoryError) else OSError
        raise kind(
            f"worker {exchange.rank} on {platform.node()} cannot read {checkpoints.folder}/"
            f"{newest.name}, from which worker 0 goes on ({error}; the newest it finds is "
            f"{own.name if own else 'none'}). All workers must start from the same one: look at "
            "that machine's disk or mount of the folder, and resume"
        ) from error


class Worker:
    """One worker's model, optimizer and stream.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        keep_freed_pages()
        job.stream.can_be_asked("worker")
        if ray.train.get_context().get_world_rank() == 0:
            job.stream.board.append(job.log, {"kind": "phase", "name": "workers"})
        if job.training.num_threads:
            torch.set_num_threads(job.training.num_threads)
        self._job = job
        device = worker_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # Ray lets every worker of a machine see all its GPUs
        self._stream = RayStream(job.stream, device=device, on_step=job.on_step)
        self._gpus = OtherGpus()
        rank = ray.train.get_context().get_world_rank()
        if rank != 0:  # worker 0 adds its own to its lines
            tell = partial(tell_board, job.stream.board, job.stream.name)
            keep_telling(tell, "worker", str(rank), device)
        spec = self._stream.spec
        self._module = spec.task.build(spec.seed)
        seed(key(spec.seed, "training", rank))
        self._restored = restored = self._restore_model()
        self._learner = Learner.build(
            spec.task, self._module, job.training, ray.train.torch.get_devices(), job.optimizer
        )
        if restored is not None:
            self._learner.load_state_dict(restored["learner"], rank)
            if rank < len(rngs := restored["learner"]["rngs"]):
                set_rng_state(rngs[rank])  # each worker its own
            self._stream.load_state_dict({**restored["stream"], "history": restored["history"]})
        if rank == 0 and isinstance(job.on_step, Audit):
            job.on_step.forget_after(self._stream.num_steps)  # 0 where nothing was restored

    def run(self) -> None:
        """Train to the end."""
        self._loop = Loop(
            self._learner,
            self._stream,
            self._job.training,
            self._job.evaluation,
            Budget(training=self._job.training, rows_per_epoch=self._stream.spec.source.num_rows),
            Hooks(
                evaluate=self._evaluate if self._job.held_out is not None else None,
                save=self._save,
                record=self._record,
                stop=listen(self._job.stream.board, self._job.stream.name),
            ),
        )
        if self._restored is not None:
            self._loop.load_state_dict(self._restored["stream"]["loop"])
            self._restored = None  # the history in it may be large
        metrics = self._loop.run()
        if self._stream.exchange.rank == 0:
            # it must be there before this process ends
            self._job.stream.board.put(self._job.outcome, 0, metrics, wait=True)

    def _restore_model(self) -> dict[str, Any] | None:
        return restore_model(self._job.checkpoints, self._module, Exchange())

    def _evaluate(self) -> dict[str, float]:
        if self._job.held_out is None:
            return {}
        return evaluate(
            self._stream.task,
            self._learner.judged(),
            self._job.held_out,
            self._stream.exchange,
            batch_size=self._job.evaluation.batch_size,
        )

    def _save(self, metrics: Mapping[str, Any], score: float | None) -> None:
        """Write a checkpoint; worker 0 returns when it is committed."""
        state = self._stream.state_dict()
        rngs = self._stream.exchange.gather_objects(rng_state())
        learner = self._learner.state_dict() | self._learner.statistics(self._stream)
        self._learner.parallel.gather()
        if self._stream.exchange.rank != 0:
            return
        history = state.pop("history")
        # a run that goes on from here goes on after the last of these lines
        self._job.stream.board.flush(self._job.log, FLUSH_S)
        self._job.checkpoints.save(
            self._stream.num_steps,
            score=score,
            model=self._module,
            learner={**learner, "rngs": rngs},  # `rng` is that of who saves
            stream={**state, "loop": self._loop.state_dict()},
            history=history,
        )

    def _record(self, line: dict[str, Any]) -> None:
        board = self._job.stream.board
        others = self._gpus.update(board.take(told_of(self._job.stream.name)))
        known = self._stream.progress(line["epoch"])
        board.append(self._job.log, with_scores(line | others, known))
