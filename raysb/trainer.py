"""Selective training in one call: the pipeline of the README's picture.

trainer = raysb.SelectiveTrainer(model=build_model, loss=raysb.losses.cross_entropy("label"),
datasets={"train": "train/*.parquet", "eval": "test.parquet"})
result = trainer.fit()
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from raysb.history.settings import History
from raysb.job import Silent, TrainingJob, Watcher
from raysb.local import fit_locally
from raysb.losses import CrossEntropy
from raysb.report.directory import RunDirectory
from raysb.resume import check_resumable
from raysb.schema import Batch
from raysb.scoring.settings import Scoring
from raysb.selection import Adjustments, Selector
from raysb.source.open import given, open_sources
from raysb.source.settings import Data
from raysb.task import Forward, PerSampleLoss
from raysb.training.check import check_first_rows
from raysb.training.settings import Evaluation, Training
from raysb.training.spec import StreamSpec
from raysb.training.strategies import check_engine


class SelectiveTrainer:
    """Scores every row, trains on those that are worth a backward pass.

    Args:
        model: `() -> nn.Module`, a function that every process can call.
        loss: `(outputs, batch) -> float [B]`, e.g. `raysb.losses.cross_entropy("label")`.
        datasets: `"train"` and, to evaluate, `"eval"`: parquet (path, folder, glob, URI), arrays by
            column, a map-style data set of torch, a `ray.data.Dataset`, or any `Source`.
        forward: `(model, batch) -> outputs`; by default the model is called with `data.inputs`.
        selector: Which rows to keep; default `SelectiveBackprop()`.
        optimizer: Class, partial of one, or `(model) -> Optimizer`; default: `training.optimizer`.
        training: Epochs, batch size, schedule, limits.
        evaluation: How often to evaluate.
        scoring: Number, size and precision of the scorers, and how old a score may be.
        adjust: Exploration, a floor for each class, a cap, a schedule: changes of its choice.
        history: Shards of what is known per sample.
        data: Columns, image size, augmentation, readers.
        correct: `(outputs, batch) -> bool [B]`, where the loss has no such method.
        extra: Further columns that scoring is to add.
        collate: Pads a batch just before the forward pass, in scorer and worker.
        step: `(model, batch) -> [B]` or dict of named terms, where the training loss is not the
            scorers'.
        scaling_config: Ray's, with the number of workers; default: `training.num_workers` workers,
            a GPU each where there are.
        run_config: Ray's; `storage_path` and `name` give the run directory. A `failure_config` with
            restarts counts; one without, as Ray's default, leaves them to `training.max_failures`.
        resume: Go on from the newest checkpoint of that run directory, which must hold one; with
            the same rows, seed and pool size.
        engine: `"ray"`, or `"local"` for one process without Ray.
        seed: Of order, augmentation, draws and initial weights.
        watcher: Is told of phases and metrics.
        verbose: Leave Ray's own output on.
    """

    def __init__(
        self,
        *,
        model: Callable[[], nn.Module],
        loss: PerSampleLoss,
        datasets: Mapping[str, Any],
        forward: Forward | None = None,
        selector: Selector | None = None,
        optimizer: Any = None,
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        scoring: Scoring | None = None,
        adjust: Adjustments | None = None,
        history: History | None = None,
        data: Data | None = None,
        correct: Callable[..., Any] | None = None,
        extra: Mapping[str, Callable[..., Any]] | None = None,
        collate: Callable[[Batch], Batch] | None = None,
        step: Callable[..., Any] | None = None,
        scaling_config: Any = None,
        run_config: Any = None,
        resume: bool = False,
        engine: str = "ray",
        seed: int = 0,
        watcher: Watcher | None = None,
        verbose: bool = False,
    ) -> None:
        if engine not in ("ray", "local"):
            raise ValueError(f"SelectiveTrainer(engine={engine!r}): must be 'ray' or 'local'")
        unknown = sorted(set(datasets) - {"train", "eval"})
        if "train" not in datasets or unknown:
            raise ValueError(
                f"SelectiveTrainer(datasets={sorted(datasets)}): 'train' is needed, 'eval' may be "
                "given, and nothing else is known"
            )
        data = data or Data()
        sources = open_sources(
            data,
            seed=seed,
            train=given(datasets["train"], "SelectiveTrainer(datasets={'train': ...})"),
            test=datasets.get("eval"),
            labels=isinstance(loss, CrossEntropy),
        )
        training = _as_ray_is_told(training or Training(), scaling_config, run_config)
        spec = StreamSpec.of(
            sources,
            data,
            model=model,
            loss=loss,
            forward=forward,
            selector=selector,
            scoring=scoring,
            adjust=adjust,
            seed=seed,
            correct=correct,
            extra=extra,
            collate=collate,
            step=step,
        )
        check_engine(training, engine)
        check_first_rows(spec, training, optimizer)
        self.engine = engine
        self._scaling_config = scaling_config
        self._run_config = run_config
        self.job = TrainingJob(
            spec=spec,
            training=training,
            evaluation=evaluation or Evaluation(),
            history=history or History(),
            held_out=sources.eval,
            optimizer=optimizer,
            directory=_directory(run_config, resume=resume),
            watcher=watcher or Silent(),
            verbose=verbose,
        )
        if resume:
            check_resumable(self.job, engine)

    def fit(self) -> Any:
        """Train; returns `ray.train.Result`, or `LocalResult` for the local engine.

        Raises:
            RaysbError: The data, the model or the resources do not allow the run.
        """
        if self.engine == "local":
            return fit_locally(self.job)
        from raysb.cluster import prepare_environment

        prepare_environment(self.job.verbose)
        from raysb.ray_engine import fit_on_ray

        return fit_on_ray(self.job, self._scaling_config, self._run_config)


def _as_ray_is_told(training: Training, scaling_config: Any, run_config: Any) -> Training:
    """The settings, with what Ray's own objects say of the same things.

    Raises:
        ValueError: Both say something, and not the same.
    """
    workers = None if scaling_config is None else scaling_config.num_workers
    restarts = None if run_config is None else run_config.failure_config.max_failures
    for name, where, value in (
        ("num_workers", "scaling_config", workers),
        ("max_failures", "run_config.failure_config", restarts or None),  # 0 where it says none
    ):
        if value is None:
            continue
        own = getattr(training, name)
        if own not in (value, getattr(Training, name)):
            raise ValueError(
                f"SelectiveTrainer: training.{name}={own} and {where}.{name}={value}: one of the "
                f"two would be ignored; name it in {where} alone, or the same in both"
            )
        training = replace(training, **{name: value})
    return training


def _directory(run_config: Any, *, resume: bool) -> Path | None:
    """Where Ray would put the run, if it was told."""
    named = run_config is not None and run_config.storage_path and run_config.name
    if resume and not named:
        raise ValueError(
            "SelectiveTrainer(resume=True): which run? Give run_config=ray.train.RunConfig("
            "storage_path=..., name=...) of the run that is to go on"
        )
    if run_config is None or run_config.storage_path is None or run_config.name is None:
        return None
    if "://" in str(run_config.storage_path):
        raise ValueError(
            f"RunConfig(storage_path={run_config.storage_path!r}): must be a local or mounted "
            "folder; copy the run elsewhere afterwards"
        )
    directory = Path(str(run_config.storage_path)) / str(run_config.name)
    if not resume:
        RunDirectory(directory).check()
    return directory
