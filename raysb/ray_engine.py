"""One training run on Ray: actors of the stream, a `TorchTrainer`, and a driver that looks on."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from raysb.cluster import check_resources, cluster_resources, connected
from raysb.errors import NonFiniteError, RaysbError, ResourceError
from raysb.job import Recorder, TrainingJob
from raysb.report.directory import RunDirectory
from raysb.source.dataset import share
from raysb.stream import start_stream, stream_needs
from raysb.training.worker import Job, train_loop_per_worker

POLL_S = 0.25  # between two looks of the driver at a run


def fit_on_ray(job: TrainingJob, scaling_config: Any = None, run_config: Any = None) -> Any:
    """Train on the cluster at hand, or on one of our own; returns `ray.train.Result`.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
        RaysbError: The data or the model do not allow the run.
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
        recorder = Recorder(directory, job.watcher)
        weights: Path | None = None
        try:
            with watching(stream, work.log, recorder):
                result = _fit(trainer, stream.ledger)
            weights = Path(result.checkpoint.path)
        finally:
            recorder.finish(stream.ledger.nonfinite(), weights)
        return result


def check_job(job: TrainingJob, scaling_config: Any = None) -> Any:
    """Refuse at once what this cluster cannot hold; returns Ray's settings of the workers.

    Raises:
        ResourceError: There are fewer CPUs or GPUs than asked for.
    """
    there = cluster_resources()
    use_gpu = _use_gpu(job, there)
    gpus = {"GPU": job.training.num_gpus} if use_gpu else {}
    scaling = scaling_config or ray.train.ScalingConfig(
        num_workers=job.training.num_workers,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": job.training.num_cpus, **gpus},
    )
    check_resources({**_train_needs(scaling), **stream_needs(job.spec)}, available=there)
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
    """`TorchTrainer`, without 12 s at its end.

    Ray Train's own clean-up of placement groups asks a dashboard that is not there, and waits for
    an answer; the groups end with the run's actors anyway. The hook is private: where Ray has
    none, this method is never called.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]


def _use_gpu(job: TrainingJob, resources: Mapping[str, float]) -> bool:
    wanted = job.training.use_gpu
    if wanted == "auto":
        return resources.get("GPU", 0) >= job.training.num_workers * job.training.num_gpus
    return bool(wanted)


def _train_needs(scaling: Any) -> dict[str, tuple[float, float]]:
    """CPUs and GPUs of the train workers, by the flag that asks for them."""
    per_worker = scaling._resources_per_worker_not_none
    count = scaling.num_workers
    if not isinstance(count, int):
        raise ResourceError(f"train.num_workers={count!r}: one number of workers is needed")
    return {
        "train.num_workers x train.num_cpus, num_gpus": (
            count * per_worker.get("CPU", 0.0),
            count * per_worker.get("GPU", 0.0),
        )
    }


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
