"""One training run on Ray: actors of the stream, a `TorchTrainer`, and a driver that looks on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from raysb.cluster import check_placement, cluster_nodes, cluster_resources, connected
from raysb.errors import NonFiniteError, RaysbError, ResourceError
from raysb.interrupt import INTERRUPTED, STOPPING, Interrupted, stop_name, stoppable
from raysb.job import Recorder, TrainingJob
from raysb.needs import uses_gpu
from raysb.packing import TRAIN_WORKERS, Processes
from raysb.report.directory import RunDirectory
from raysb.source.dataset import share
from raysb.stream import start_stream, stream_processes
from raysb.training.worker import Job, train_loop_per_worker

POLL_S = 0.25  # between two looks of the driver at a run
ABORT_LIMIT_S = 5.0  # for the end of the workers when a run is to end at once


def fit_on_ray(job: TrainingJob, scaling_config: Any = None, run_config: Any = None) -> Any:
    """Train on the cluster at hand, or on one of our own; returns `ray.train.Result`.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
        RaysbError: The data or the model do not allow the run.
        Interrupted: Ctrl-C or SIGTERM asked it to stop; everything is written.
    """
    with connected(verbose=job.verbose):
        scaling = check_job(job, scaling_config)
        run_config = run_config or _run_config(job)
        directory = Path(run_config.storage_path) / run_config.name
        stream = start_stream(job.spec, job.history)
        work = Job(
            stream=stream,
            training=job.training,
            evaluation=job.evaluation,
            optimizer=job.optimizer,
            held_out=None if job.held_out is None else share(job.held_out),
            on_step=job.audit(directory),
        )
        trainer = Trainer(
            train_loop_per_worker,
            train_loop_config={"job": work},
            scaling_config=scaling,
            run_config=run_config,
        )
        recorder = job.recorder(directory)

        def ask_to_stop() -> None:
            stream.board.put(stop_name(stream.name), 1, True)
            job.watcher.phase(STOPPING)

        weights: Path | None = None
        try:
            with watching(stream, work.log, recorder), stoppable(ask_to_stop):
                result = _fit(trainer, stream.ledger)
            weights = Path(result.checkpoint.path)
        finally:
            recorder.finish(stream.ledger.nonfinite(), weights)
        if result.metrics.get("stopped_by") == INTERRUPTED:
            raise Interrupted(result.metrics)
        return result


def check_job(job: TrainingJob, scaling_config: Any = None) -> Any:
    """Refuse at once what this cluster cannot hold; returns Ray's settings of the workers.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
    """
    there = cluster_resources()
    use_gpu = uses_gpu(job.training, there)
    gpus = {"GPU": job.training.num_gpus} if use_gpu else {}
    scaling = scaling_config or ray.train.ScalingConfig(
        num_workers=job.training.num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": job.training.num_cpus, **gpus},
    )
    check_placement(
        {**_train_processes(scaling), **stream_processes(job.spec)}, nodes=cluster_nodes()
    )
    return scaling


def _run_config(job: TrainingJob) -> Any:
    train: Any = ray.train  # typed as its first version, whose settings have fewer fields
    directory = job.directory or RunDirectory.claim(None, model="run").path
    return train.RunConfig(
        storage_path=str(directory.absolute().parent),
        name=directory.name,
        failure_config=train.FailureConfig(max_failures=job.training.max_failures),
        logging_config=None if job.verbose else train.LoggingConfig(log_level="ERROR"),
    )


def _fit(trainer: Any, ledger: Any) -> Any:
    """Run the trainer; the error that a user sees is the first one, not its echo in Ray Train."""
    try:
        result = trainer.fit()
    except KeyboardInterrupt:
        trainer.abort()
        raise
    except Exception as error:
        failure = ledger.progress()["failure"]
        if failure is None:
            raise
        raise _error(failure) from error
    failure = ledger.progress()["failure"]
    if failure is not None:
        raise _error(failure)
    return result


def _error(failure: str) -> RaysbError:
    """The error that a worker's message is of."""
    kind, _, message = failure.partition(": ")
    kinds = {cls.__name__: cls for cls in RaysbError.__subclasses__()}
    return kinds[kind](message) if kind in kinds else NonFiniteError(failure)


class Trainer(TorchTrainer):
    """`TorchTrainer`, without 12 s at its end, and without its answer to Ctrl-C.

    Ray Train's own clean-up of placement groups asks a dashboard that is not there, and waits for
    an answer; the groups end with the run's actors anyway. At Ctrl-C it throws the run away, where
    ours is saved. The hooks are private: where Ray has none, these methods are never called.
    """

    _controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def abort(self) -> None:
        """End the worker group now: on a cluster that goes on it would train to the end."""
        if self._controller is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._controller.abort.remote(), timeout=ABORT_LIMIT_S)


def _train_processes(scaling: Any) -> dict[str, Processes]:
    """The train workers, by the flag that asks for them."""
    per_worker = scaling._resources_per_worker_not_none
    count = scaling.num_workers
    if not isinstance(count, int):
        raise ResourceError(f"train.num_workers={count!r}: one number of workers is needed")
    return {TRAIN_WORKERS: Processes(count, per_worker.get("CPU", 0.0), per_worker.get("GPU", 0.0))}


@contextmanager
def watching(stream: Any, log: str, recorder: Recorder) -> Iterator[None]:
    """Bring lines of metrics from the board to the run directory while the block runs."""
    over = threading.Event()

    def bring() -> None:
        for line in stream.board.drain(log):
            if line["kind"] == "phase":
                recorder.phase(line["name"])
                continue
            if line["kind"] == "start":
                recorder.phase("first batch")
            recorder(line)

    def watch() -> None:
        while not over.wait(POLL_S):
            bring()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bring()
