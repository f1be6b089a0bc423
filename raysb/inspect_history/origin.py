"""Where the samples of a history lie: file, row and label, by id.

Dimensions in comments: n samples, N rows of the data.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raysb.config import Config, load
from raysb.errors import DataError, RunDirectoryError
from raysb.prepare import has_classes
from raysb.report.directory import CONFIG
from raysb.scan.run import open_every_row
from raysb.schema import Ids, Source, rows_of
from raysb.source.spans import Origin, class_names, ids_and_target, origin_of

WITHOUT = "--no-origin goes without file, row and label"


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where n samples lie.

    Args:
        rows: Number of each among all rows of the data. int64 [n]
        origin: Files and rows behind these numbers.
        labels: [n], or None where there is not one number a row.
        names: Names of the classes by number, where the files know them.
    """

    rows: npt.NDArray[np.int64]
    origin: Origin
    labels: npt.NDArray[Any] | None
    names: tuple[str, ...] | None

    def places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Index into `origin.files` and row in that file of each sample. [n] each."""
        file, row = self.origin.locate(0, int(self.origin.starts[-1]))
        return file[self.rows], row[self.rows]


def read_config(run: Path, flags: Sequence[str]) -> Config:
    """The configuration of a run, with the settings of the command line.

    Raises:
        RunDirectoryError: It has none, as that of a trainer called from Python.
    """
    file = run / CONFIG
    if not file.is_file():
        raise RunDirectoryError(
            f"{run} holds no {CONFIG}, so nothing says which data its ids are of (a run from "
            f"Python leaves none); {WITHOUT}"
        )
    return load(file, flags, of_run=True)


def open_rows(config: Config) -> Source:
    """All rows that a run's ids may be of.

    Raises:
        FileNotFoundError: They are not where they were.
        DataError: They cannot be read.
    """
    with saying_where():
        labels = has_classes(config)
        return open_every_row(config.data, config.run.seed, labels=labels).train


@contextmanager
def saying_where() -> Iterator[None]:
    """Add what can be done to the error that data are not there, or not what they were."""
    try:
        yield
    except (FileNotFoundError, DataError) as error:
        raise type(error)(
            f"{error} If the data of the run lie elsewhere by now, say where with --data.train "
            f"PATH; {WITHOUT}"
        ) from error


def locate(ids: Ids, source: Source, config: Config) -> Located:
    """Find each id among the rows of the data.

    Args:
        ids: int64 [n], distinct.
        source: All rows.
        config: Of the run.

    Raises:
        DataError: An id is not there: these are other data.
    """
    there, target = ids_and_target(source, config.data.target)  # [N]
    rows, known = rows_of(ids, there)
    if (absent := ~known).any():
        raise DataError(
            f"data.train={config.data.train}: {int(absent.sum()):,} of the {len(ids):,} ids of the "
            f"history are not in it, the first of them {int(ids[absent][0])}: these are not the "
            f"rows that the run saw. Name those with --data.train PATH (and --data.id); {WITHOUT}"
        )
    labels = None if target is None else target[rows]
    if labels is not None and labels.dtype.kind != "f":
        labels = labels.astype(np.int64)
    names = class_names(source, config.data.target)
    return Located(
        rows=rows, origin=origin_of(source, config.data.train), labels=labels, names=names
    )
