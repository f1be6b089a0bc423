"""`raysb history`: what a run learned about its samples, as a file, a short list, and pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raysb.config import Config
from raysb.inspect_history.export import to_table, write_beside, write_table
from raysb.inspect_history.order import SHOWN, order, words
from raysb.inspect_history.origin import Located, locate, open_rows, read_config, saying_where
from raysb.inspect_history.pictures import draw, look_at, picture_column
from raysb.inspect_history.records import read_history
from raysb.inspect_history.settings import Wanted
from raysb.inspect_history.summary import Inspected, Written, count
from raysb.printable import printable
from raysb.scan.job import ScoreJob
from raysb.scan.run import configured_job
from raysb.schema import ID, Source
from raysb.scoring.scores import PREDICTION

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class _Data:
    """The data of a run; the model too where pictures are wanted."""

    config: Config
    source: Source
    job: ScoreJob | None


def inspect_history(
    run: str | os.PathLike[str], wanted: Wanted | None = None, flags: Sequence[str] = ()
) -> Inspected:
    """Read the history of a run, write what is wanted, and sum it up.

    Args:
        run: Run directory, of either engine.
        wanted: What to make of it; None: the list alone.
        flags: Settings that take the place of the run's: `--data.train PATH` where the data lie by
            now.

    Raises:
        FileNotFoundError: There is no such folder, or the data are not where they were.
        RunDirectoryError: There is no history, or nothing says which data it is of.
        DataError: The data are not those of the run, or hold no pictures.
        ModelError: Pictures are wanted, and the run's model cannot be had.
        ValueError: A setting cannot be used.
    """
    wanted, folder = wanted or Wanted(), Path(run)
    history = read_history(folder)
    rows = order(history, wanted.by)[: wanted.top]
    data = _open(folder, wanted, flags)
    located = None if data is None else locate(history.samples[ID], data.source, data.config)
    table = to_table(history, located)
    top = table.take(pa.array(rows)).to_pylist()
    sheet = None
    if data is not None and data.job is not None and located is not None and top:
        shown = f"{len(top)} of {history.num_samples:,} samples"
        title = f"{printable(folder.absolute().name)}: {shown}, {words(wanted.by)}"
        sheet = _sheet(data.job, data.config, located, rows, top, SHOWN[wanted.by], title)
    return Inspected(
        run=str(run),
        checkpoint=history.checkpoint.name,
        counts=count(history),
        by=wanted.by,
        top=top,
        classes=None if located is None else located.names,
        export=_export(wanted.export, table),
        images=_save(wanted.images, sheet),
    )


def _open(folder: Path, wanted: Wanted, flags: Sequence[str]) -> _Data | None:
    if not wanted.origin:
        return None
    config = read_config(folder, flags)
    if wanted.images is None:
        return _Data(config, open_rows(config), None)
    with saying_where():
        config, job = configured_job(str(folder), flags)
    return _Data(config, job.source, job)


def _sheet(
    job: ScoreJob,
    config: Config,
    located: Located,
    rows: npt.NDArray[np.int64],
    top: list[dict[str, Any]],
    value: str,
    title: str,
) -> "Image":
    """The pictures of the list; notes the prediction of each sample beside what is known of it."""
    column = picture_column(job, config.data.inputs)
    pictures = look_at(job, column, located.rows[rows])
    for sample, prediction in zip(top, pictures.predictions or [], strict=False):
        sample[PREDICTION] = prediction
    return draw(pictures, top, value=value, names=located.names, title=title)


def _export(path: str | None, table: pa.Table) -> Written | None:
    if path is None:
        return None
    size = write_table(table, Path(path))
    return Written(path=path, num_bytes=size, columns=tuple(table.column_names))


def _save(path: str | None, sheet: "Image | None") -> Written | None:
    if path is None or sheet is None:
        return None
    size = write_beside(Path(path), lambda part: sheet.save(part, "PNG"))
    return Written(path=path, num_bytes=size)
