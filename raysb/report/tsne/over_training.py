"""The same rows on a map, again and again while a model is trained.

Each map begins with the points of the one before, so that points move and do not jump: of a net
that learns mnist5k the median point goes .09 of the map's deviation between two maps 50 steps
apart, against .29 if every map begins anew, at a divergence that is 1 % larger
(`pipelines/tsne_over_training.py`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from raysb.report.tsne.estimator import TSNE
from raysb.report.tsne.features import FEATURES, look_at
from raysb.report.tsne.picture import DARK, bare, draw_classes, frame, need_matplotlib
from raysb.report.tsne.points import Points
from raysb.report.tsne.window import Window, has_display
from raysb.schema import ID, num_rows
from raysb.scoring.scores import PREDICTION, no_loss
from raysb.task import Forward, Task

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = (".gif", ".png")
FRAME_MS, LAST_MS = 250, 2000
SIDE, DPI = 5.5, 100  # inches, dots per inch
# of a map that begins with another: enough to follow, and a little exaggeration, without which
# points that should join a cluster stay where they are
FOLLOWING = {"early_exaggeration": 2.0, "max_iter": 500}


@dataclass(frozen=True)
class Frame:
    """A map of one moment.

    Args:
        step: Optimizer steps until then.
        points: The map.
        kl_divergence: Of it, in nats.
    """

    step: int
    points: Points
    kl_divergence: float


class TSNEOverTraining:
    """Maps of a model's last layer over its training: live in a window, and as an animated file.

        with TSNEOverTraining(model, rows, forward=raysb.inputs("image"), out="tsne.gif") as film:
            for batch in loader:
                ...
                optimizer.step()
                film.step()                                      # draws every 50th time

    `optimizer.register_step_post_hook(film.step)` calls it where the loop is not one's own, in the
    process that trains. Looking leaves model, modes and random states as they were. A map of 500
    rows takes about a second on one core; frames are kept in memory (350 KB each) until the end.

    Args:
        model: The model that is trained; its first map is drawn at once.
        rows: Columns of n rows that are shown, as numpy arrays; more than `perplexity`.
        forward: `(model, batch) -> outputs`, as `raysb.inputs("image")`.
        target: Column with the class of each row, whole numbers; `None`: rows without.
        out: File to write at the end, `.gif` or `.png` (an animated PNG); coordinates lie beside
            it, as `.parquet` with `step`. `None`: none.
        every: Steps between two maps, at least 1.
        perplexity: Of `TSNE`.
        window: Whether to open a window; `None`: where there is a display.
        overwrite: Whether files of these names may be replaced.
        device: Where t-SNE is computed.

    Attributes:
        frames: The maps so far.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: An argument is out of range, or a file cannot be written.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Mapping[str, npt.NDArray[Any]],
        *,
        forward: Forward,
        target: str | None = "label",
        out: str | os.PathLike[str] | None = "tsne.gif",
        every: int = 50,
        perplexity: float = 30.0,
        window: bool | None = None,
        overwrite: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if every < 1:
            raise ValueError(f"TSNEOverTraining(every={every}): must be at least 1 step")
        if target is not None and target not in rows:
            raise ValueError(
                f"TSNEOverTraining(target={target!r}): rows have the columns {', '.join(rows)}; "
                "name the one with the class, or None"
            )
        need_matplotlib("TSNEOverTraining")
        self._files = _checked(out, overwrite)
        self._model, self._rows, self._target = model, dict(rows), target
        self._task = Task(model=lambda: model, forward=forward, loss=no_loss)
        self._every, self._perplexity, self._device = every, perplexity, device
        self._images: list[Image] = []
        self._half = 0.0
        self._steps = 0
        self.frames: list[Frame] = []
        wanted = has_display() if window is None else window
        self._window = Window("t-SNE over training") if wanted else None
        self.add_frame(0)

    def step(self, *_: object) -> None:
        """Count an optimizer step, and draw a map where one is due; takes and ignores a hook's."""
        self._steps += 1
        if self._steps % self._every == 0:
            self.add_frame(self._steps)
        elif self._window is not None:
            self._window.react()

    def add_frame(self, step: int) -> Frame:
        """Draw the map of this moment.

        Args:
            step: Optimizer steps so far, for the title.
        """
        found = look_at(self._task, self._model, self._rows, target=self._target)
        tsne = self._tsne().fit(found[FEATURES])
        labels = None if self._target is None else self._rows[self._target]
        ids = self._rows.get(ID, np.arange(num_rows(self._rows)))
        points = Points(
            ids=ids.astype(np.int64),
            xy=tsne.embedding_,
            labels=None if labels is None else labels.astype(np.int64),
            predictions=found.get(PREDICTION),
        )
        self.frames.append(Frame(step, points, tsne.kl_divergence_))
        self._draw(self.frames[-1])
        return self.frames[-1]

    def close(self) -> None:
        """Write the files, and close the window."""
        if self._window is not None:
            self._window.close()
        if self._files is None or not self._images:
            return
        film, table = self._files
        waits = [FRAME_MS] * (len(self._images) - 1) + [LAST_MS]
        first, *others = self._images
        first.save(film, save_all=True, append_images=others, duration=waits, loop=0)
        tables = [each.points.to_table() for each in self.frames]
        steps = [pa.array(np.full(each.points.num_rows, each.step)) for each in self.frames]
        parts = [t.add_column(0, "step", s) for t, s in zip(tables, steps, strict=True)]
        pq.write_table(pa.concat_tables(parts), table, compression="zstd")
        self._images = []  # a second call writes nothing

    def _tsne(self) -> TSNE:
        if not self.frames:
            return TSNE(perplexity=self._perplexity, device=self._device)
        before = self.frames[-1].points.xy
        following: dict[str, Any] = dict(FOLLOWING)
        rate = max(len(before) / TSNE.early_exaggeration / 4, 50.0)  # that of the first map
        return TSNE(
            perplexity=self._perplexity,
            init=before,
            learning_rate=rate,
            device=self._device,
            **following,
        )

    def _draw(self, moment: Frame) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image

        height = SIDE + 0.4  # of which .4 are for the title
        figure = Figure(figsize=(SIDE, height), dpi=DPI)
        canvas: Any = FigureCanvasAgg(figure)
        place = (0.15 / SIDE, 0.15 / height, 1 - 0.3 / SIDE, (SIDE - 0.3) / height)
        axis: Any = figure.add_axes(place)
        bare(axis)
        points = moment.points
        if points.labels is None:
            axis.scatter(*points.xy.T, s=10, linewidths=0)
        else:
            draw_classes(axis, points.xy, points.labels, points.wrong)
        self._half = frame(axis, points.xy, least=self._half)
        error = "" if points.wrong is None else f", error {points.wrong.mean():.1%}"
        axis.set_title(f"step {moment.step:,}{error}", fontsize=12, color=DARK, loc="left")
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
        if self._files is not None:
            self._images.append(Image.fromarray(pixels).quantize(128))
        if self._window is not None:
            self._window.show(pixels)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()  # of a training that failed too: how it came to that


def _checked(out: str | os.PathLike[str] | None, overwrite: bool) -> tuple[Path, Path] | None:
    """The film and the table beside it; nothing is written."""
    if out is None:
        return None
    film = Path(out)
    if film.suffix.lower() not in ENDINGS:
        raise ValueError(
            f"TSNEOverTraining(out={os.fspath(out)!r}): the name must end in {' or '.join(ENDINGS)}"
        )
    if not film.absolute().parent.is_dir():
        raise ValueError(
            f"TSNEOverTraining(out={os.fspath(out)!r}): there is no folder "
            f"{film.absolute().parent}; create it, or name another file"
        )
    files = film, film.with_suffix(".parquet")
    if there := [str(path) for path in files if path.exists() and not overwrite]:
        raise ValueError(
            f"TSNEOverTraining(out={os.fspath(out)!r}): {there[0]} exists already and would be "
            "overwritten; name another file, or say so with overwrite=True"
        )
    return files
