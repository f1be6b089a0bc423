"""All that a run checks before it starts, with nothing written."""

from dataclasses import dataclass, replace

from raysb.config import Config, flat
from raysb.errors import RunDirectoryError
from raysb.job import Silent, TrainingJob, Watcher
from raysb.losses import build_loss
from raysb.models import build_from
from raysb.report.directory import RunDirectory
from raysb.report.loggers import Loggers, make_loggers
from raysb.resume import Resumed, check_resumable
from raysb.source.open import Sources, open_sources
from raysb.training.check import check_first_rows
from raysb.training.folder import leave_near
from raysb.training.spec import StreamSpec

REGRESSION = ("mse", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss")


@dataclass(frozen=True)
class Prepared:
    """A run that could start."""

    config: Config  # resolved
    job: TrainingJob
    directory: RunDirectory  # claimed, not created


def prepare(
    config: Config,
    *,
    resumed: Resumed | None = None,
    watcher: Watcher | None = None,
    verbose: bool = False,
) -> Prepared:
    """Open the rows, try every part once, and choose the run directory.

    Args:
        config: As given; ignored where a run is resumed.
        resumed: A run that goes on from its newest checkpoint.
        watcher: Shows the run; by default nobody.
        verbose: Leave Ray's own output on.

    Raises:
        RaysbError: The data, the model or the run directory do not allow the run.
        ValueError: A setting cannot be used.
    """
    if resumed is not None:
        config, directory = resumed.config, resumed.directory
    else:
        directory = RunDirectory.claim(config.run.dir, model=config.model.name.split(":")[-1])
    sources = open_data(config)
    config = resolve(config, sources)
    job = build_job(config, sources, watcher or Silent(), verbose)
    if config.run.checkpoints is not None:
        leave_near(config.run.checkpoints).remove()
    if resumed is not None:
        check_resumable(replace(job, directory=directory.path), config.engine)
    elif job.checkpoints(directory.path).entries():
        raise RunDirectoryError(
            f"run.checkpoints={config.run.checkpoints} already holds checkpoints, which this run "
            "would go on from: name another folder, or continue theirs with --resume"
        )
    return Prepared(config, job, directory)


def open_data(config: Config) -> Sources:
    """Open the rows of a configuration.

    Raises:
        DataError: They cannot be used.
        FileNotFoundError: They are not there.
    """
    return open_sources(
        config.data,
        seed=config.run.seed,
        num_classes=config.model.num_classes,
        labels=has_classes(config),
    )


def has_classes(config: Config) -> bool:
    """Whether an integer target is the number of a class: unless the loss is one of regression."""
    return config.train.loss not in REGRESSION


def resolve(config: Config, sources: Sources) -> Config:
    """Write what the data say into the configuration, so that it alone repeats the run."""
    shape = sources.shapes[config.data.inputs[0]]
    image = len(shape) == 3 and sources.mean is not None
    data = replace(
        config.data,
        mean=sources.mean,
        std=sources.std,
        image_size=shape if image else config.data.image_size,
    )
    classes = (
        config.model.num_classes or sources.num_classes or (None if has_classes(config) else 1)
    )
    return replace(config, data=data, model=replace(config.model, num_classes=classes))


def build_job(config: Config, sources: Sources, watcher: Watcher, verbose: bool) -> TrainingJob:
    """The run of a resolved configuration, every part tried once."""
    data = config.data
    spec = StreamSpec.of(
        sources,
        data,
        model=build_from(config, sources.shapes[data.inputs[0]]),
        loss=build_loss(config.train.loss, data.target, config.train.loss_args),
        selector=config.selector,
        scoring=config.scoring,
        adjust=config.adjust,
        seed=config.run.seed,
    )
    check_first_rows(spec, config.train)
    return TrainingJob(
        spec=spec,
        training=config.train,
        evaluation=config.eval,
        history=config.history,
        held_out=sources.eval,
        optimizer=None,
        directory=None,
        watcher=watcher,
        verbose=verbose,
        loggers=Loggers(make_loggers(config.run.loggers), flat(config)),
        checkpoint_folder=config.run.checkpoints,
    )
