"""Maps as pictures: coloured by class, by loss, and by how often a row was selected.

Colours are safe for colour-blind eyes: of classes those of Petroff (2021,
https://arxiv.org/abs/2107.02270), of numbers viridis. Up to `MOST_LETTERS` points are drawn as the
number of their class, so that no colour alone tells it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from raysb.report.tsne.points import Points
from raysb.schema import Floats

Axes: TypeAlias = Any  # matplotlib's, which is an extra
Panel: TypeAlias = Callable[[Axes, Points], None]

MOST_LETTERS = 1000  # points beyond which a number would hide its neighbours
MOST_NAMES = 20  # classes in a legend
MOST_RINGS = 0.2  # share of wrong rows beyond which rings would hide the map
MOST_STEPS = 12  # times selected that get a colour each
SIDE, GAP, TOP, BOTTOM = 5.0, 0.25, 0.75, 0.75  # inches: a panel, and what is around it
LEGEND_LINE = 0.2  # inches
LETTER, DOT, RING = 36, 10, 90  # areas in points^2
PETROFF = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
DARK, GREY = "#222222", "#bbbbbb"


def need_matplotlib(what: str) -> None:
    """Raise `ImportError` where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs matplotlib, which is not installed: pip install matplotlib (the extra "
            "`demo` brings it too)"
        ) from error


def draw_points(points: Points, title: str) -> Any:
    """A panel for each thing that is known: class, loss, times selected.

    Args:
        points: The map.
        title: Above all panels.

    Returns:
        A figure of matplotlib.
    """
    from matplotlib.figure import Figure

    panels = _panels(points)
    lines = -(-len(points.classes or ()) // 5) if len(points.classes or ()) <= MOST_NAMES else 0
    bottom = max(BOTTOM, 0.2 + LEGEND_LINE * lines)
    width, height = GAP + len(panels) * (SIDE + GAP), TOP + SIDE + bottom
    figure = Figure(figsize=(width, height))
    for number, panel in enumerate(panels):
        left = (GAP + number * (SIDE + GAP)) / width
        axis = figure.add_axes((left, bottom / height, SIDE / width, SIDE / height))
        bare(axis)
        panel(axis, points)
        frame(axis, points.xy)
    figure.suptitle(title, y=1 - 0.1 / height, fontsize=12, color=DARK)
    return figure


def bare(axis: Axes) -> None:
    """No ticks, which a map has no use for, and a thin frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color(GREY)


def frame(axis: Axes, xy: Floats, least: float = 0.0) -> float:
    """Show all points in a square; returns half its side, which is at least `least`."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    half = max(float((high - low).max()) * 0.53, least)
    x, y = ((low + high) / 2).tolist()
    axis.set_xlim(x - half, x + half)
    axis.set_ylim(y - half, y + half)
    return half


def draw_classes(
    axis: Axes,
    xy: Floats,
    labels: npt.NDArray[Any],
    wrong: npt.NDArray[np.bool_] | None = None,
    names: Sequence[str] = (),
) -> None:
    """Points as the numbers of their classes, or as dots; a ring around what is taken for another.

    Args:
        axis: Where to draw.
        xy: [n, 2].
        labels: Numbers of classes [n].
        wrong: Which get a ring, if they are few. [n]
        names: Of the classes by number, for the legend.
    """
    letters, found = len(xy) <= MOST_LETTERS, np.unique(labels).tolist()
    colours = class_colours(found)
    for label in found:
        text, look = str(label), {"marker": "o", "s": DOT}
        if letters:
            look = {"marker": f"$\\mathbf{{{text}}}$", "s": LETTER * len(text)}
        name = f"{text} {names[label]}" if 0 <= label < len(names) else text
        of_class = xy[labels == label].T
        axis.scatter(*of_class, color=colours[label], linewidths=0, label=name, **look)
    if wrong is not None and wrong.mean() <= MOST_RINGS:
        size = RING if letters else 3 * DOT
        axis.scatter(*xy[wrong].T, s=size, facecolors="none", edgecolors=DARK, linewidths=0.8)
    if len(found) <= MOST_NAMES and (len(names) or not letters):  # a digit says what it is
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 0.3}
        axis.legend(ncols=5, frameon=False, fontsize=9, columnspacing=1, handletextpad=0.2, **place)


def class_colours(labels: Sequence[int]) -> dict[int, Any]:
    """A colour for each class: the ten of Petroff, of more classes steps of viridis."""
    if len(labels) <= len(PETROFF):
        by_number = max(labels, default=0) < len(PETROFF)
        return {label: PETROFF[label if by_number else i] for i, label in enumerate(labels)}
    from matplotlib import colormaps

    steps = np.linspace(0, 0.95, len(labels))
    return dict(zip(labels, colormaps["viridis"](steps), strict=True))


def _panels(points: Points) -> list[Panel]:
    found: list[Panel] = []
    if points.labels is not None:
        found.append(_class_panel if points.are_classes else _label_panel)
    if points.losses is not None:
        found.append(_loss_panel)
    if points.times_selected is not None:
        found.append(_selected_panel)
    return found or [_plain_panel]


def _class_panel(axis: Axes, points: Points) -> None:
    labels, wrong = points.labels, points.wrong
    if labels is None:
        return
    draw_classes(axis, points.xy, labels, wrong, points.classes or ())
    title = "class"
    if wrong is not None:
        ringed = "rings: " if 0 < wrong.mean() <= MOST_RINGS else ""
        title += f" ({ringed}{int(wrong.sum())} of {len(wrong)} taken for another)"
    axis.set_title(title, fontsize=10, color=DARK)


def _label_panel(axis: Axes, points: Points) -> None:
    if points.labels is not None:
        _number_panel(axis, points.xy, points.labels, "label")


def _plain_panel(axis: Axes, points: Points) -> None:
    axis.scatter(*points.xy.T, s=DOT, color=PETROFF[0], linewidths=0)


def _loss_panel(axis: Axes, points: Points) -> None:
    """In logarithmic colours, which leave the smallest twentieth out."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    losses = points.losses
    if losses is None:
        return
    finite = losses[np.isfinite(losses) & (losses > 0)]
    low, high = np.quantile(finite, [0.05, 1]) if len(finite) else (0.0, 0.0)
    low = max(low, high * 1e-6)
    values = np.where(np.isfinite(losses), losses.clip(low), np.nan)
    if low >= high:  # all are equal
        return _number_panel(axis, points.xy, values, "loss")
    ticks = LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,))
    bar = {"extend": "min", "ticks": ticks, "format": FormatStrFormatter("%g")}
    _number_panel(axis, points.xy, values, "loss", norm=LogNorm(low, high), **bar)


def _selected_panel(axis: Axes, points: Points) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm

    times = points.times_selected
    if times is None:
        return
    values, most = np.where(times < 0, np.nan, times), max(int(times.max()), 1)
    if most > MOST_STEPS:
        return _number_panel(axis, points.xy, values, "times selected")
    norm = BoundaryNorm(np.arange(most + 2) - 0.5, most + 1)
    colours, ticks = colormaps["viridis_r"].resampled(most + 1), range(most + 1)
    _number_panel(axis, points.xy, values, "times selected", norm=norm, cmap=colours, ticks=ticks)


def _number_panel(
    axis: Axes,
    xy: Floats,
    values: npt.NDArray[Any],
    name: str,
    *,
    norm: Any = None,
    cmap: Any = "viridis_r",
    **bar: Any,
) -> None:
    """Points coloured by a number, the largest on top and darkest; grey where there is none."""
    there = ~np.isnan(values.astype(np.float64))
    size = DOT * (3 if len(xy) <= MOST_LETTERS else 1)
    axis.scatter(*xy[~there].T, s=size, color=GREY, linewidths=0)
    order = np.argsort(values[there], kind="stable")
    look = {"c": values[there][order], "norm": norm, "cmap": cmap}
    shown = axis.scatter(*xy[there][order].T, s=size, linewidths=0, **look)
    absent = f" (grey: {int((~there).sum())} without)" if not there.all() else ""
    axis.set_title(name + absent, fontsize=10, color=DARK)
    if there.any():
        place = axis.inset_axes((0.1, -0.06, 0.8, 0.03))
        drawn = axis.get_figure().colorbar(shown, cax=place, orientation="horizontal", **bar)
        drawn.outline.set_visible(False)
        drawn.minorticks_off()
        place.tick_params(labelsize=9)
