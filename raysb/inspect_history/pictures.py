"""The pictures of some samples, what the run's model makes of them, and the sheet of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raysb.errors import DataError
from raysb.inspect_history.sheet import BLACK, GREEN, GREY, RED, Line, draw_sheet
from raysb.inspect_history.summary import show
from raysb.scan.job import LABEL, RowScorer, ScoreJob
from raysb.schema import ID, concatenate, take
from raysb.scoring.scores import PREDICTION
from raysb.source.normalise import image_columns

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures of k samples and the predictions of the run's model.

    Args:
        pixels: uint8 [k, H, W, C].
        predictions: Classes or values, k of them; None where the outputs are neither.
    """

    pixels: npt.NDArray[Any]
    predictions: list[int | float] | None


def picture_column(job: ScoreJob, inputs: Sequence[str]) -> str:
    """The first input that holds pictures.

    Raises:
        DataError: None does.
    """
    first = job.source.read(None, 0, 1)
    found = image_columns(first, inputs)
    if not found:
        shapes = ", ".join(f"{n} {first[n].dtype} {list(first[n].shape[1:])}" for n in inputs)
        raise DataError(
            "images: the rows of the run have no pictures, which are uint8 [height, width, "
            f"channels]; its inputs are {shapes}. Leave --images out; the list needs none"
        )
    return found[0]


def look_at(job: ScoreJob, column: str, rows: npt.NDArray[np.int64]) -> Pictures:
    """Read some rows, and predict them in batches of the size that the run scored.

    Args:
        job: The run's model, and all rows.
        column: Input with the pictures.
        rows: Numbers of the rows, in any order. int64 [k]
    """
    order = np.argsort(rows)  # in the order of the data each row group is loaded once
    batch = concatenate([job.source.read(None, row, row + 1) for row in rows[order].tolist()])
    batch = take(batch, np.argsort(order))
    scores = RowScorer(job, job.device)(batch)
    predictions = scores.get(PREDICTION)
    one_each = predictions is not None and predictions.ndim == 1
    return Pictures(
        pixels=batch[column],
        predictions=predictions.tolist() if one_each and predictions is not None else None,
    )


def draw(
    pictures: Pictures,
    samples: Sequence[dict[str, Any]],
    *,
    value: str,
    names: Sequence[str] | None,
    title: str,
) -> "Image":
    """The sheet: under each picture label, prediction, a value and the id.

    Args:
        pictures: Of the samples, in their order.
        samples: What is known of each.
        value: The column to show.
        names: Names of the classes by number.
        title: Above all of them.
    """
    captions = [_caption(sample, value, names) for sample in samples]
    return draw_sheet(list(pictures.pixels), captions, title)


def _caption(sample: dict[str, Any], value: str, names: Sequence[str] | None) -> list[Line]:
    lines = [Line(f"{LABEL} {show(sample[LABEL], names)}")] if LABEL in sample else []
    if PREDICTION in sample:
        said = sample[PREDICTION]
        judged = LABEL in sample and isinstance(said, int)
        colour = BLACK if not judged else GREEN if said == sample[LABEL] else RED
        lines.append(Line(f"net: {show(said, names)}", colour))
    word = value.replace("_", " ")
    return [*lines, Line(f"{word} {show(sample[value])}", GREY), Line(f"id {sample[ID]}", GREY)]
