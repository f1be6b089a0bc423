"""All that a run checks before it starts, with nothing written."""

from dataclasses import dataclass

from raysb.config import Config
from raysb.job import Silent, TrainingJob
from raysb.report.directory import RunDirectory
from raysb.run import build_job, has_classes, resolve
from raysb.source.open import Sources, open_sources


@dataclass(frozen=True)
class Prepared:
    """A run that could start."""

    config: Config  # resolved
    job: TrainingJob
    directory: RunDirectory  # claimed, not created


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


def prepare(config: Config, *, verbose: bool = False) -> Prepared:
    """Open the rows, try every part once, and choose the run directory.

    Raises:
        RaysbError: The data, the model or the run directory do not allow the run.
        ValueError: A setting cannot be used.
    """
    directory = RunDirectory.claim(config.run.dir, model=config.model.name.split(":")[-1])
    sources = open_data(config)
    config = resolve(config, sources)
    return Prepared(config, build_job(config, sources, Silent(), verbose), directory)
