"""The loop of one Ray Train worker: build, restore, train, save."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raysb.interrupt import listen
from raysb.optim.registry import build_optimizer
from raysb.schema import Batch, Source
from raysb.seeding import key
from raysb.training.checkpoint import load, rng_state, save, set_rng_state
from raysb.training.evaluation import evaluate
from raysb.training.faults import telling
from raysb.training.learner import Learner
from raysb.training.loop import Hooks, Loop, with_scores
from raysb.training.memory import keep_freed_pages
from raysb.training.schedule import Budget
from raysb.training.settings import Evaluation, Training
from raysb.training.stages import StreamHandle
from raysb.training.stream import RayStream, worker_device


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is to do; passes from the driver to every worker.

    Args:
        stream: Where rows come from.
        training: Epochs, batch size, optimizer, limits.
        evaluation: How often, and with how many rows at once.
        optimizer: Class, partial of one, or `(model) -> Optimizer`; `None`: the settings' own.
        held_out: Rows to evaluate on, or `None`.
        on_step: Called after every step, for the audit.
    """

    stream: StreamHandle
    training: Training
    evaluation: Evaluation
    optimizer: Any = None
    held_out: Source | None = None
    on_step: Callable[[int, int, Batch], None] | None = None

    @property
    def log(self) -> str:
        """Name of the board's log for lines of metrics."""
        return f"metrics/{self.stream.name}"


def train_loop_per_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker's share of the stream; `config["job"]` says what."""
    job: Job = config["job"]
    if job.stream.ledger.progress()["failure"]:
        return  # the data or the model is at fault, not a machine: another try ends like the last
    with telling(job.stream.ledger):
        Worker(job).run()


class Worker:
    """One worker's model, optimizer and stream.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        keep_freed_pages()
        if ray.train.get_context().get_world_rank() == 0:
            job.stream.board.append(job.log, {"kind": "phase", "name": "workers"})
        if job.training.num_threads:
            torch.set_num_threads(job.training.num_threads)
        self._job = job
        device = worker_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # Ray lets every worker of a machine see all its GPUs
        self._stream = RayStream(job.stream, device=device, on_step=job.on_step)
        spec = self._stream.spec
        self._module = spec.task.build(spec.seed).to(device)
        rank = ray.train.get_context().get_world_rank()
        torch.manual_seed(key(spec.seed, "training", rank))
        self._seconds = 0.0  # of training before this start
        restored = self._restore_model()
        self._learner = Learner(
            spec.task,
            distribute(self._module),
            build_optimizer(self._module, job.training, job.optimizer),
            job.training.clip_norm,
        )
        if restored is not None:
            self._learner.load_state_dict(restored["learner"])
            set_rng_state(restored["learner"]["rngs"][rank])  # each worker its own
            self._seconds = restored["learner"]["seconds"]
            self._stream.load_state_dict({**restored["stream"], "history": restored["history"]})

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
            seconds_before=self._seconds,
        )
        self._loop.run()

    def _restore_model(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return load(Path(folder), model=self._module)

    def _evaluate(self) -> dict[str, float]:
        if self._job.held_out is None:
            return {}
        return evaluate(
            self._stream.task,
            self._module,
            self._job.held_out,
            self._stream.exchange,
            batch_size=self._job.evaluation.batch_size,
        )

    def _save(self, metrics: Mapping[str, Any]) -> None:
        """Write a checkpoint; returns when it is committed."""
        state = self._stream.state_dict()
        rngs = self._stream.exchange.gather_objects(rng_state())
        if self._stream.exchange.rank != 0:
            ray.train.report({})
            self._stream.committed(state["cursor"][0])
            return
        history = state.pop("history", None)
        with tempfile.TemporaryDirectory(prefix="raysb-") as folder:
            save(
                Path(folder),
                model=self._module,
                learner={
                    **self._learner.state_dict(),
                    "rngs": rngs,  # of every worker; `rng` is that of who saves
                    "seconds": self._loop.seconds,
                },
                stream=state,
                history=history,
            )
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(dict(metrics), checkpoint=checkpoint)
        self._stream.committed(state["cursor"][0])

    def _record(self, line: dict[str, Any]) -> None:
        self._job.stream.board.append(self._job.log, with_scores(line, self._stream.progress()))


def distribute(model: nn.Module) -> nn.Module:
    """Wrap for data-parallel training where there are several workers."""
    if ray.train.get_context().get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None
    )
