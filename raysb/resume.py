"""`raysb train --resume`: which run goes on, from where, and what is different now.

A run goes on from its newest checkpoint, inside the epoch, with the configuration it had; settings
given beside `--resume` win, and each difference is said. What decides which rows make up which pool
must stay as it was: the checkpoint names pools by their number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysb.config import Config, flat, load
from raysb.errors import RunDirectoryError
from raysb.job import TrainingJob
from raysb.models import plan_of
from raysb.optim.registry import build_optimizer
from raysb.report.directory import CONFIG, RunDirectory
from raysb.training.settings import Training


@dataclass(frozen=True)
class Resumed:
    """A run that is to go on.

    Args:
        directory: Its directory.
        config: Its configuration with the settings given now.
        before: The configuration it had.
    """

    directory: RunDirectory
    config: Config
    before: Config

    def differences(self) -> list[str]:
        """One line for each setting that is another one now."""
        old, new = flat(self.before), flat(self.config)
        return [
            f"{key} = {new.get(key)} (was {old.get(key)})"
            for key in sorted(old.keys() | new.keys())
            if key != "run.dir" and old.get(key) != new.get(key)
        ]


def reopen(path: Path, settings: tuple[str, ...]) -> Resumed:
    """Find a run and read its configuration; nothing is written.

    Args:
        path: Its directory.
        settings: Words of a command line, which win over what the run had.

    Raises:
        RunDirectoryError: It holds no run.
        ValueError: A setting that cannot be used.
    """
    file = path / CONFIG
    if not file.is_file():
        raise RunDirectoryError(
            f"--resume {path}: there is no {CONFIG} in it; give the directory that `raysb train` "
            "made, which it named at its end and in its first lines"
        )
    own = plan_of(path, None)  # where it came from may be gone
    plan = () if own is None else ("--model.plan", own)
    before, config = load(str(file), plan), load(str(file), (*plan, *settings))
    if config.run.dir != before.run.dir:
        raise ValueError(
            f"run.dir={config.run.dir!r} beside --resume {path}: a run goes on in its own "
            "directory; leave it out, or copy the directory and resume the copy"
        )
    return Resumed(RunDirectory(path), config, before)


def check_resumable(job: TrainingJob, engine: str) -> None:
    """See that a run can go on from its newest checkpoint; nothing is written.

    Whatever would refuse the checkpoint once the run is under way refuses it here, where its
    directory is still as it was.

    Args:
        job: What it would train now, in its directory.
        engine: `ray` or `local`.

    Raises:
        RunDirectoryError: There is no checkpoint, or nothing is left to do.
        ModelError: Its weights are of another model.
        ValueError: Its pools or scores are not those of this configuration.
    """
    checkpoints = job.checkpoints(job.directory or Path())
    newest = checkpoints.newest()
    if newest is None:
        raise RunDirectoryError(
            f"{checkpoints.folder} holds no checkpoint to go on from: the run ended before its "
            "first one (train.checkpoint_every, train.checkpoint_every_s). Start it anew with "
            f"`raysb train --config RUN_DIR/{CONFIG}` and another run.dir"
        )
    model, train = job.spec.task.build(job.spec.seed), job.training
    found = checkpoints.load(newest, model)
    stream, kind = found["stream"], found["learner"]["kind"]
    batch_size = train.batch_size * (train.max_workers if engine == "local" else 1)
    job.spec.check_identity(stream["counters"]["made_with"], batch_size)
    job.spec.ledger().load_state_dict(stream["ledger"])
    now = type(build_optimizer(model, train, job.optimizer)).__name__
    if now != kind:
        raise ValueError(
            f"the checkpoint's optimizer is {kind}, this run has {now}: leave train.optimizer as "
            "it was, or start a new run with model.init=RUN_DIR/model.safetensors"
        )
    all_trained = stream["cursor"]["low"] >= job.spec.plan(batch_size, train.epochs).num_pools
    reached = (
        f"train.epochs={train.epochs}" if all_trained else _limit(stream["loop"]["last"], train)
    )
    if reached is not None:
        raise RunDirectoryError(
            f"{checkpoints.folder}: nothing is left to train, {reached} is reached; raise it to go "
            "on, as in `raysb train --resume RUN_DIR --train.epochs 20`"
        )


def _limit(last: Mapping[str, Any], training: Training) -> str | None:
    """The limit of the settings that a run has reached, by its last line of metrics."""
    for name, key in (
        ("max_steps", "step"),
        ("max_backprops", "num_backpropped"),
        ("max_cost", "cost"),
        ("max_time_s", "wall_time_s"),
    ):
        limit = getattr(training, name)
        if limit is not None and last[key] >= limit:
            return f"train.{name}={limit:g}"
    return None
