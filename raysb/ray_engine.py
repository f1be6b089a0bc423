"""One training run on Ray: actors of the stream, a `TorchTrainer`, and a driver that looks on."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from raysb.cluster import check_placement, cluster_nodes, cluster_resources, connected
from raysb.elastic import START_LIMIT, check_elastic
from raysb.errors import NonFiniteError, RaysbError, ResourceError
from raysb.interrupt import INTERRUPTED, STOPPING, Interrupted, stop_name, stoppable
from raysb.job import Recorder, TrainingJob
from raysb.needs import uses_gpu
from raysb.packing import TRAIN_WORKERS, Processes
from raysb.placement import amounts, least_of
from raysb.report.directory import RunDirectory
from raysb.shared import audit_not_shared, check_shared
from raysb.source.dataset import share
from raysb.stacks import STACKS
from raysb.stream import start_stream, stream_processes
from raysb.training.bystanders import asks_nobody, is_alone, no_datasets
from raysb.training.checkpoints import Checkpoints
from raysb.training.entry import train_loop_per_worker
from raysb.training.one_worker import OneWorker
from raysb.training.spec import StreamSpec
from raysb.training.worker import Job
from raysb.watchdog import ended, watched

POLL_S = 0.25  # that the driver waits for lines of metrics before it looks whether all is over
ABORT_LIMIT_S = 5.0  # for the end of the workers when a run is to end at once
LIST_LIMIT_S = 20.0  # for the list of ids whose loss was not finite, at the end of a run


def fit_on_ray(job: TrainingJob, scaling_config: Any = None, run_config: Any = None) -> Any:
    """Train on the cluster at hand, or on one of our own; returns `ray.train.Result`.

    What dies of scorers, readers, shards and workers is started again by Ray. When a part dies on
    which all others hang - ledger, board, train controller - everything is started again from the
    newest checkpoint, up to `train.max_failures` times.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for, parts died too often, or the run
            hung and was ended (`train.on_stall=stop`).
        RaysbError: The data or the model do not allow the run.
        Interrupted: Ctrl-C or SIGTERM asked it to stop; everything is written.
    """
    with connected(verbose=job.verbose):
        scaling = check_job(job, scaling_config)
        run_config = _run_config(job, run_config)
        check_folders(replace(job, directory=_directory(run_config)), scaling)
        return fit_checked(job, scaling, run_config)


def fit_checked(job: TrainingJob, scaling: Any, run_config: Any = None) -> Any:
    """The same of a job that `check_job` and `check_folders` have let pass.

    Args:
        job: What to train.
        scaling: Ray's settings of the workers, as `check_job` gave.
        run_config: Ray's settings of the run.
    """
    for risk in (old_scores_stall(job.spec), scorers_held_back(job)):
        if risk is not None:
            job.watcher.note(risk)
    result = Supervisor(job, scaling, run_config or _run_config(job)).run()
    if result.metrics.get("stopped_by") == INTERRUPTED:
        raise Interrupted(result.metrics)
    return result


def old_scores_stall(spec: StreamSpec) -> str | None:
    """What to say of a selector that prefers the hardest rows by scores of any age."""
    if not spec.scored or spec.scoring.max_staleness_steps is not None:
        return None
    if not spec.selector.stalls_on_old_scores:
        return None
    return (
        "note: at the start of a run, scores that are a few steps old can stall a selector with "
        "selector.beta above 1 (the classes take turns at being hardest), and "
        "scoring.max_staleness_steps=none bounds no age. Set it to auto, or "
        "selector.warmup_epochs=1; measured by pipelines/benchmarks/delayed_scores.py"
    )


def scorers_held_back(job: TrainingJob) -> str | None:
    """What to say of scorers that may be more than the bound on ages has work for."""
    scoring, training = job.spec.scoring, job.training
    if not job.spec.scored or scoring.min_actors == scoring.max_actors:
        return None
    grown = job.spec.limits_as_grown(training.batch_size, training.max_workers)
    if (most := grown[-1].num_actors) == scoring.max_actors:
        return None
    bound = scoring.max_staleness_steps
    rule = f"scoring.max_staleness_steps={bound}" + (" (lockstep)" if bound == 0 else "")
    return (
        f"note: scoring.num_actors={scoring.min_actors},{scoring.max_actors}: there will be "
        f"{most} at most, since under {rule} more would take turns. Smaller pools "
        "(scoring.batch_size) or older scores leave work for more"
    )


class Supervisor:
    """Starts a run's actors and its trainer, and starts them again when one of them is lost.

    Args:
        job: What to train.
        scaling: Ray's settings of the workers.
        run_config: Ray's settings of the run.
    """

    def __init__(self, job: TrainingJob, scaling: Any, run_config: Any) -> None:
        self._job = job
        self._scaling = scaling
        self._run_config = run_config
        self._directory = _directory(run_config)
        self._checkpoints = job.checkpoints(self._directory)
        self._recorder = job.recorder(self._directory)
        self._stream: Any = None
        self._stopping = False
        self._ended: str | None = None  # why, if the run was ended from outside
        self._nonfinite: dict[int, int] = {}

    def run(self) -> Any:
        """Train to the end; returns Ray's result."""
        weights: Checkpoints | None = None
        with self._checkpoints.shared() as self._checkpoints:
            try:
                with stoppable(self._ask_to_stop):
                    result = self._persist()
                weights = self._checkpoints
            finally:
                self._recorder.finish(self._nonfinite, weights)
        return result

    def _persist(self) -> Any:
        failures, most = 0, self._job.training.max_failures
        while True:
            try:
                return self._attempt()
            except Exception as error:
                if self._ended is not None:  # whatever it is, it is the echo of that
                    newest = None
                    with suppress(RaysbError):  # none that is whole is none
                        newest = self._checkpoints.newest()
                    raise ResourceError(ended(self._ended, self._directory, newest)) from error
                if not isinstance(error, LostError):
                    raise
                failures += 1
                if 0 <= most < failures:
                    raise ResourceError(
                        f"{error}, and train.max_failures={most} restarts were made. What it had "
                        f"reached is kept: raysb train --resume {self._directory}"
                    ) from error
                self._job.watcher.note(f"{error}: all is started again from the last checkpoint")

    def _attempt(self) -> Any:
        """One life of the run's own actors and of the trainer."""
        job = self._job
        stream = start_stream(
            job.spec,
            job.history,
            self._checkpoints.newest_history,
            str(self._directory.absolute() / STACKS),
        )
        self._stream = stream
        if self._stopping:
            self._ask_to_stop()
        work = Job(
            stream=stream,
            training=job.training,
            evaluation=job.evaluation,
            checkpoints=self._checkpoints,
            optimizer=job.optimizer,
            held_out=None if job.held_out is None else share(job.held_out),
            on_step=job.audit(self._directory),
        )
        if isinstance(self._scaling.num_workers, tuple):
            os.environ.setdefault(*START_LIMIT)
        trainer = Trainer(
            train_loop_per_worker,
            train_loop_config={"job": [ray.put(work)]},  # the controller need not understand it
            scaling_config=self._scaling,
            run_config=self._run_config,
        )
        with self._watched(stream, trainer), watching(stream, work.log, self._recorder):
            try:
                return self._outcome(_fit(trainer, stream), work)
            finally:  # an error may name the list
                with suppress(ray.exceptions.RayError):
                    self._nonfinite = stream.ledger.nonfinite(LIST_LIMIT_S)

    def _outcome(self, result: Any, work: Job) -> Any:
        """Ray's result with the last metrics, and the checkpoint wherever it lies."""
        board = work.stream.board
        if board.version(work.outcome) < 0:
            raise LostError("the last worker group has ended too early")
        result.metrics = board.get(work.outcome)[1]
        if (newest := self._checkpoints.newest()) is not None:
            result.checkpoint = ray.train.Checkpoint(f"{self._checkpoints.folder}/{newest.name}")
        return result

    def _watched(self, stream: Any, trainer: "Trainer") -> AbstractContextManager[None]:
        job = self._job
        return watched(
            stream.ledger.progress,
            limit_s=job.training.stall_after_s,
            tell=job.watcher.note,
            stacks=self._directory / STACKS,
            stop=self._ask_to_stop if job.training.on_stall == "stop" else None,
            end=partial(self._end, stream, trainer),
        )

    def _end(self, stream: Any, trainer: "Trainer", why: str) -> None:
        """End the attempt from another thread: whoever waits for a part of it gets an error."""
        self._ended = why
        trainer.abort()
        for part in (stream.ledger, stream.board):  # which may hang themselves
            part.kill()

    def _ask_to_stop(self) -> None:
        first, self._stopping = not self._stopping, True
        if self._stream is not None:
            self._stream.board.put(stop_name(self._stream.name), 1, True)
        if first:
            self._job.watcher.phase(STOPPING)


def check_job(job: TrainingJob, scaling_config: Any = None) -> Any:
    """Refuse at once what this cluster cannot hold; returns Ray's settings of the workers.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
    """
    there = cluster_resources()
    use_gpu = uses_gpu(job.training, there)
    gpus = {"GPU": job.training.num_gpus} if use_gpu else {}
    settings: Any = ray.train.ScalingConfig  # typed as its first version, which knows no pair
    scaling = scaling_config or settings(
        num_workers=job.training.num_workers,
        use_gpu=use_gpu,
        resources_per_worker={
            "CPU": job.training.num_cpus,
            **gpus,
            **amounts(job.training.resources),
        },
    )
    nodes = cluster_nodes()
    processes = {**_train_processes(scaling), **stream_processes(job.spec)}
    check_placement(processes, nodes=nodes)
    check_elastic(scaling.num_workers, processes, nodes)
    return scaling


def check_folders(job: TrainingJob, scaling: Any) -> None:
    """Refuse folders that the machines of the train workers and history shards do not share.

    Args:
        job: What to train, with its directory.
        scaling: Ray's settings of the workers, as `check_job` gave.

    Raises:
        RunDirectoryError: A machine has another folder of that name.
    """
    directory = job.directory or Path()
    workers = scaling._resources_per_worker_not_none
    spread = job.spec.has_history and job.history.num_shards > 1  # on machines of Ray's choice
    check_shared(job.checkpoints(directory).folder, {} if spread else workers)
    if job.training.audit:
        check_shared(str(directory.absolute()), workers, audit_not_shared)


def _run_config(job: TrainingJob, given: Any = None) -> Any:
    """Ray's settings of the run: ours or those given, with the restarts that the job's name."""
    if given is not None:
        failures = replace(given.failure_config, max_failures=job.training.max_failures)
        return replace(given, failure_config=failures)
    train: Any = ray.train  # typed as its first version, whose settings have fewer fields
    directory = job.directory or RunDirectory.claim(None, model="run").path
    return train.RunConfig(
        storage_path=str(directory.absolute().parent),
        name=directory.name,
        failure_config=train.FailureConfig(max_failures=job.training.max_failures),
        logging_config=None if job.verbose else train.LoggingConfig(log_level="ERROR"),
    )


def _directory(run_config: Any) -> Path:
    return Path(run_config.storage_path, run_config.name)


class LostError(Exception):
    """A part is gone without which none of the others can work."""


def _fit(trainer: Any, stream: Any) -> Any:
    """Run the trainer; the error that a user sees is the first one, not its echo in Ray Train."""
    try:
        result = trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except Exception as error:
        if (failure := _failure(stream)) is not None:
            raise _error(failure) from error
        if isinstance(error, ray.exceptions.RayActorError):
            raise LostError("the train controller has died") from error
        raise
    if (failure := _failure(stream)) is not None:
        raise _error(failure)
    return result


def _failure(stream: Any) -> str | None:
    """What ended the run, if its own code or data did.

    Raises:
        LostError: Nobody knows, since who would is gone.
    """
    lost = stream.lost()
    if lost is not None:
        raise LostError(f"{lost} has died")
    failure: str | None = stream.ledger.progress()["failure"]
    return failure


def _error(failure: str) -> RaysbError:
    """The error that a worker's message is of."""
    kind, _, message = failure.partition(": ")
    kinds = {cls.__name__: cls for cls in RaysbError.__subclasses__()}
    return kinds[kind](message) if kind in kinds else NonFiniteError(failure)


class Trainer(TorchTrainer):
    """`TorchTrainer`, without 12 s at its end, and without its answer to Ctrl-C.

    Ray Train's own clean-up of placement groups asks a dashboard that is not there, and waits for
    an answer; the groups end with the run's actors anyway. The process that deals datasets is left
    out where there are none: a run's own stream reaches the workers by itself. At Ctrl-C Ray Train
    throws the run away, where ours is saved. The hooks are private: where Ray has none, these
    methods are never called.
    """

    _controller: Any = None

    def __init__(self, *args: Any, scaling_config: Any, **kwargs: Any) -> None:
        alone: Any = OneWorker() if scaling_config.num_workers == 1 else None
        super().__init__(*args, torch_config=alone, scaling_config=scaling_config, **kwargs)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        for callback in callbacks:
            if type(callback).__name__ == "DatasetsCallback" and not self.datasets:
                callback.before_init_train_context = no_datasets
        return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if is_alone():
            parts = {name: asks_nobody(part) for name, part in parts.items()}
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def abort(self) -> None:
        """End the worker group now: on a cluster that goes on it would train to the end."""
        if self._controller is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=ABORT_LIMIT_S)
            ray.kill(self._controller)  # what is left of its workers ends with it


def _train_processes(scaling: Any) -> dict[str, Processes]:
    """The train workers, by the flag that asks for them."""
    per_worker = scaling._resources_per_worker_not_none
    count = least_of(scaling.num_workers)
    cpus, gpus = per_worker.get("CPU", 0.0), per_worker.get("GPU", 0.0)
    custom = {name: each for name, each in per_worker.items() if name not in ("CPU", "GPU")}
    return {TRAIN_WORKERS: Processes(count, cpus, gpus, custom)}


@contextmanager
def watching(stream: Any, log: str, recorder: Recorder) -> Iterator[None]:
    """Bring lines of metrics from the board to the run directory while the block runs."""
    over = threading.Event()

    def bring(wait_s: float = 0.0) -> None:
        try:
            lines = stream.board.drain(log, wait_s)
        except ray.exceptions.RayActorError:
            over.wait(wait_s)  # it is told elsewhere
            return
        for line in lines:
            if line["kind"] == "phase":
                recorder.phase(line["name"])
                continue
            if line["kind"] in ("start", "resume"):
                recorder.phase("first batch")
            recorder(line)
        stream.board.done(log, len(lines))

    def watch() -> None:
        while not over.is_set():
            bring(POLL_S)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bring()
