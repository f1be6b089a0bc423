"""A finished run's rows on a map: the features of its last layer, by t-SNE: `raysb tsne`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raysb.device import device_here
from raysb.errors import RunDirectoryError
from raysb.evaluate import OpenedRun, open_run
from raysb.inspect_history.export import write_beside, write_table
from raysb.inspect_history.records import read_history
from raysb.inspect_history.summary import Written
from raysb.prepare import has_classes
from raysb.report.tsne.estimator import TSNE
from raysb.report.tsne.features import FEATURES, look_at
from raysb.report.tsne.picture import draw_points, need_matplotlib
from raysb.report.tsne.points import Points
from raysb.scan.file import check_out
from raysb.scan.job import is_label
from raysb.schema import ID, LOSS, Batch, Ids, Source, concatenate, num_rows, take
from raysb.scoring.scores import PREDICTION
from raysb.seeding import generator
from raysb.source.spans import class_names

PICTURE, TABLE = ".png", ".parquet"
MOST_ROWS = 10_000  # of which every pair is kept several times: 6 GB of memory
DPI = 130


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which map to make of a run.

    Args:
        split: Rows that the run tested on, or trained on.
        rows: How many of them, drawn by the run's seed; at least 2.
        perplexity: Of `TSNE`.
        out: PNG of the picture, or a parquet file for the coordinates alone; `None`:
            `tsne_<split>.png` in the run directory. Coordinates lie beside the picture.
        overwrite: Whether files of these names may be replaced.

    Raises:
        ValueError: A value is out of range.
    """

    split: Literal["test", "train"] = "test"
    rows: int = 500
    perplexity: float = 30.0
    out: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.split not in ("test", "train"):
            raise ValueError(f"split={self.split!r}: must be 'test' or 'train'")
        if not 2 <= self.rows <= MOST_ROWS:
            raise ValueError(
                f"rows={self.rows}: must be 2 to {MOST_ROWS:,}; exact t-SNE looks at every pair, "
                "so memory and time grow with the square"
            )
        TSNE(perplexity=self.perplexity)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A map that was made.

    Args:
        run: The run directory.
        rows: Which rows, in words.
        num_rows: Rows on the map.
        num_there: Rows that there are.
        num_features: Features of a row.
        num_wrong: Rows on the map that are taken for another class; `None` without classes.
        kl_divergence: Of the map, in nats.
        missing: Why times selected are not on it, though they were wanted.
        coordinates: The parquet file.
        picture: The PNG, unless only coordinates were wanted.
    """

    run: str
    rows: str
    num_rows: int
    num_there: int
    num_features: int
    num_wrong: int | None
    kl_divergence: float
    missing: str | None
    coordinates: Written
    picture: Written | None


def embed_run(run: str, wanted: Wanted | None = None, flags: Sequence[str] = ()) -> Embedded:
    """Draw the map of a run's rows, and write it.

    Args:
        run: Directory of a run of `raysb train`.
        wanted: Which map.
        flags: Settings that take the place of the run's: `--data.test PATH` names other rows.

    Raises:
        RaysbError: The run, its model or the rows cannot be used, as by `open_run`.
        ImportError: A picture is wanted, and matplotlib is not installed.
        ValueError: A setting, or a file that cannot be written.
    """
    wanted = wanted or Wanted()
    picture, table = _files(run, wanted)
    opened = open_run(run, flags, train=wanted.split == "train")
    batch = _sample(opened.source, wanted.rows, opened.config.run.seed)
    found = _look(opened, batch)
    tsne = TSNE(perplexity=wanted.perplexity, device=device_here(opened.config.train.use_gpu)).fit(
        found[FEATURES]
    )
    selected, missing = None, None
    if wanted.split == "train":
        selected, missing = _times_selected(Path(run), batch[ID].astype(np.int64))
    points = _points(opened, batch, found, tsne.embedding_, selected)
    coordinates = points.to_table()
    size = write_table(coordinates, table)
    columns = tuple(coordinates.column_names)
    wrong = points.wrong
    return Embedded(
        run=run,
        rows=opened.rows,
        num_rows=points.num_rows,
        num_there=opened.source.num_rows,
        num_features=tsne.n_features_in_,
        num_wrong=None if wrong is None else int(wrong.sum()),
        kl_divergence=tsne.kl_divergence_,
        missing=missing,
        coordinates=Written(path=str(table), num_bytes=size, columns=columns),
        picture=None if picture is None else _draw(run, opened, points, tsne, picture),
    )


def _files(run: str, wanted: Wanted) -> tuple[Path | None, Path]:
    """Where picture and coordinates go; nothing is written."""
    out = os.path.join(run, f"tsne_{wanted.split}{PICTURE}") if wanted.out is None else wanted.out
    if wanted.out is None and not Path(run).is_dir():
        raise RunDirectoryError(f"{run}: no such folder; give that which `raysb train` named")
    endings = (PICTURE, TABLE)
    path = check_out(out, overwrite=wanted.overwrite, key="out", endings=endings)
    if path.suffix.lower() == TABLE:
        return None, path
    need_matplotlib(f"a picture ({path.name}; --out points{TABLE} needs none)")
    beside = path.with_suffix(TABLE)
    check_out(beside, overwrite=wanted.overwrite, key="coordinates beside out", endings=(TABLE,))
    return path, beside


def _sample(source: Source, rows: int, seed: int) -> Batch:
    """Some rows of a source, or all of them, in its own order."""
    if rows >= source.num_rows:
        return source.read(None, 0, source.num_rows)
    chosen = generator(seed, "tsne").choice(source.num_rows, rows, replace=False)
    return concatenate([source.read(None, row, row + 1) for row in np.sort(chosen).tolist()])


def _look(opened: OpenedRun, batch: Batch) -> Batch:
    target, size = opened.config.data.target, opened.config.eval.batch_size
    parts = [take(batch, slice(i, i + size)) for i in range(0, num_rows(batch), size)]
    looks = [look_at(opened.task, opened.module, part, target=target) for part in parts]
    return concatenate(looks)


def _times_selected(run: Path, ids: Ids) -> tuple[npt.NDArray[np.int32] | None, str | None]:
    """How often the run selected each row, -1 where it never met it; or why that is not known."""
    try:
        samples = read_history(run).samples
    except RunDirectoryError as error:
        return None, str(error)
    known, times = samples[ID], samples["times_selected"].astype(np.int32)
    place = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[place] == ids, times[place], np.int32(-1)), None


def _points(
    opened: OpenedRun,
    batch: Batch,
    found: Batch,
    xy: npt.NDArray[np.float32],
    selected: npt.NDArray[np.int32] | None,
) -> Points:
    target = opened.config.data.target
    labels: Any = batch[target] if target is not None and is_label(batch[target]) else None
    whole = labels is not None and labels.dtype.kind in "biu"
    return Points(
        ids=batch[ID].astype(np.int64),
        xy=xy,
        labels=labels.astype(np.int64) if whole else labels,
        predictions=found.get(PREDICTION),
        losses=found.get(LOSS),  # type: ignore[arg-type]  # float32, from `look_at`
        times_selected=selected,
        classes=class_names(opened.source, target),
        are_classes=whole and has_classes(opened.config),
    )


def _draw(run: str, opened: OpenedRun, points: Points, tsne: TSNE, path: Path) -> Written:
    name = Path(run).absolute().name
    title = f"{name}: {points.num_rows:,} of {opened.rows}, t-SNE of {tsne.n_features_in_} features"
    figure = draw_points(points, title)
    size = write_beside(path, lambda part: figure.savefig(part, format="png", dpi=DPI))
    return Written(path=str(path), num_bytes=size)
