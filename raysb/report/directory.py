"""The run directory: where everything that a run leaves behind lies.

config.toml        the resolved configuration; `raysb train --config` of it repeats the run
run.log            what the console said
metrics.jsonl      append-only records of the run
nonfinite.json     samples whose loss was NaN or infinite
model.safetensors  the trained weights; their average with train.ema
model_best.safetensors  those of the best evaluation, with train.save_best
checkpoint_*       folders to resume from
"""

import fcntl
import itertools
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raysb.errors import RunDirectoryError

CONFIG = "config.toml"
LOG = "run.log"
METRICS = "metrics.jsonl"
NONFINITE = "nonfinite.json"
MODEL = "model.safetensors"
BEST = "model_best.safetensors"
AVERAGED = "ema.safetensors"  # in a checkpoint, beside MODEL
CHECKPOINT = "checkpoint_"
LOCK = ".lock"

RUNS = Path("runs")  # parent of the directories that get their name from the model


@dataclass(frozen=True)
class RunDirectory:
    """A directory for one run: first checked, later created, so that early errors write nothing.

    Args:
        path: The directory. May exist, but must not hold a run.
        counted: Whether the last part of the path is a number that may be raised.
    """

    path: Path
    counted: bool = False

    @classmethod
    def claim(cls, directory: str | os.PathLike[str] | None, *, model: str) -> "RunDirectory":
        """Choose the directory of a new run and check it; nothing is written.

        Args:
            directory: The folder; None: the next free `runs/<model>-<n>`.
            model: Name of the model.

        Raises:
            RunDirectoryError: It holds a run, is no local folder, or cannot be written.
        """
        claimed = cls(_next_free(model), True) if directory is None else cls(Path(directory))
        if directory is not None and "://" in os.fspath(directory):
            raise RunDirectoryError(
                f"run.dir={directory}: must be a local folder; copy it elsewhere after the run"
            )
        claimed.check()
        return claimed

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def log(self) -> Path:
        """What the console said."""
        return self.path / LOG

    @property
    def metrics(self) -> Path:
        """The records of the run, one JSON object a line."""
        return self.path / METRICS

    @property
    def nonfinite(self) -> Path:
        """Samples whose loss was NaN or infinite."""
        return self.path / NONFINITE

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.path / MODEL

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here while the block runs.

        Raises:
            RunDirectoryError: Another one does.
        """
        with open(self.path / LOCK, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirectoryError(
                    f"{self.path}: the run is still under way in another process, and two would "
                    "overwrite each other's checkpoints; wait for its end, or end it"
                ) from None
            except OSError:
                pass  # a file system without locks
            yield

    def check(self) -> None:
        """Raise `RunDirectoryError` if a run could not be written here; writes nothing."""
        held = holds_run(self.path)
        if held:
            raise RunDirectoryError(
                f"{self.path} already holds a run ({held}), which would be overwritten: "
                "name another folder with --run.dir, or move this one away"
            )
        nearest = next(p for p in (self.path, *self.path.absolute().parents) if os.path.lexists(p))
        if not nearest.is_dir():
            raise RunDirectoryError(
                f"cannot create {self.path}: {nearest} is not a folder; "
                "name another folder with --run.dir"
            )
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _unwritable(self.path, f"no permission to write into {nearest}")

    def create(self) -> "RunDirectory":
        """Create the directory and return it; a number that was taken meanwhile is raised.

        Raises:
            RunDirectoryError: It cannot be created; folders made on the way are removed again.
        """
        if self.counted and self.path.exists():
            stem = self.path.name.rpartition("-")[0]
            return RunDirectory(_next_free(stem, self.path.parent), True).create()
        self.check()
        new = [p for p in (self.path, *self.path.parents) if not p.exists()]
        made: list[Path] = []
        try:
            for folder in reversed(new):
                folder.mkdir(exist_ok=not (self.counted and folder == self.path))
                made.append(folder)
        except FileExistsError:  # another run took the number between the look and the mkdir
            return self.create()
        except OSError as error:
            for folder in reversed(made):
                folder.rmdir()
            raise _unwritable(self.path, error.strerror or str(error)) from error
        return self


def holds_run(path: Path) -> str | None:
    """The name of a run's file in a folder, or None where there is no run."""
    if not path.is_dir():
        return None
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return None
    ours = (CONFIG, LOG, METRICS, NONFINITE, MODEL, BEST)
    return next((name for name in names if name in ours or name.startswith(CHECKPOINT)), None)


def _next_free(stem: str, parent: Path = RUNS) -> Path:
    # a model may be an import path such as `package.module:function`
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip("-.") or "run"
    paths = (parent / f"{safe}-{n}" for n in itertools.count(1))
    return next(path for path in paths if not os.path.lexists(path))


def _unwritable(path: Path, why: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"cannot write {path}: {why}; name a folder that you may write to with --run.dir"
    )


def checkpoints_of(folder: Path) -> Path:
    """Where a run's checkpoints lie: in its directory, unless its `run.checkpoints` says otherwise.

    Raises:
        RunDirectoryError: They are not on a disk.
    """
    try:
        named = tomllib.loads((folder / CONFIG).read_text()).get("run", {}).get("checkpoints")
    except (OSError, ValueError, AttributeError):
        named = None
    if named is None or not isinstance(named, str):
        return folder
    if "://" in named:
        raise RunDirectoryError(
            f"{folder}: the run's checkpoints are at {named}, which is not read from here; copy "
            f"the newest {CHECKPOINT}* of it into {folder}"
        )
    return Path(named)


def best_weights(folder: Path) -> Path:
    """The weights of a run's best evaluation.

    Raises:
        RunDirectoryError: It left none.
    """
    if not (folder / BEST).is_file():
        raise RunDirectoryError(
            f"{folder} holds no {BEST}: a run leaves it at its end with train.save_best=true. "
            f"Leave --best out to take its last weights"
        )
    return folder / BEST


def newest_weights(folder: Path) -> Path:
    """The weights in a run directory: those of its end, else of its newest checkpoint.

    Raises:
        RunDirectoryError: There are none.
    """
    checkpoints = list(folder.glob(f"{CHECKPOINT}*/{MODEL}"))
    if not checkpoints and not (folder / MODEL).is_file():
        checkpoints = list(checkpoints_of(folder).glob(f"{CHECKPOINT}*/{MODEL}"))
    # by name, which sorts by step: times change when a folder is copied
    checkpoints.sort(key=lambda path: path.parent.name)
    found = [folder / MODEL] if (folder / MODEL).is_file() else checkpoints[-1:]
    averaged = found[0].with_name(AVERAGED) if found else folder
    if not found:
        raise RunDirectoryError(
            f"{folder} holds no {MODEL} and no checkpoint: give the directory that the run named "
            "at its end, or a safetensors file"
        )
    return averaged if averaged.is_file() else found[0]
