"""Pictures of pruning: sorted importance by layer, errors before and after rebirth."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from raysb.prune.rebirth import Outcome

COLUMNS = 4
PANEL = (3.0, 2.0)  # inches
BAR, DOT, GREY, BLACK = "#3f90da", "#bd1f01", "#bbbbbb", "#222222"


def draw_importance(layers: Mapping[str, Sequence[float]], title: str, file: str) -> None:
    """Write a picture with the importance of every layer's channels, largest first.

    Args:
        layers: Importance by layer, falling.
        title: Above all panels.
        file: Its ending says the format: png, svg, pdf.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The ending is no format that matplotlib writes.
    """
    columns = min(COLUMNS, len(layers))
    lines = math.ceil(len(layers) / columns)
    figure = _figure()(figsize=(columns * PANEL[0], lines * PANEL[1] + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, layers.items(), strict=False):
        axis.bar(range(len(values)), values, width=1.0, color=BAR)
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.set_title(f"{name}: {len(values)} channels", fontsize=9)
        axis.set_xlim(-0.5, len(values) - 0.5)
        axis.tick_params(labelsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes[len(layers) :]:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=11)
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def draw_rebirth(found: Mapping[str, Sequence[Outcome]], allowed: float, file: str) -> None:
    """Write a picture of errors by criterion: a ring before the last rebirth, a dot after it.

    Args:
        found: By criterion, what became of one parent or of several.
        allowed: Points of error, in percent, that pruning may cost: a dashed line.
        file: Its ending says the format: png, svg, pdf.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure()(figsize=(7, 0.3 * len(found) + 1.8), layout="constrained")
    axis = figure.subplots()
    runs = [(row, each) for row, runs in enumerate(found.values()) for each in runs]
    rows = [row for row, each in runs if each.after]
    before = [100 * each.before[-1] for _, each in runs if each.after]
    after = [100 * each.after[-1] for _, each in runs if each.after]
    parent = median(100 * each.parent for _, each in runs)
    axis.hlines(rows, after, before, color=GREY)
    axis.plot(before, rows, "o", color=BAR, fillstyle="none", label="before rebirth")
    axis.plot(after, rows, "o", color=DOT, label="after")
    axis.axvline(parent, color=BLACK, linewidth=1, label="parent")
    label = f"{allowed:g} points more"
    axis.axvline(parent + allowed, color=BLACK, linewidth=1, linestyle="--", label=label)
    axis.set_yticks(range(len(found)), list(found))
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="error [%]")
    for axle in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        axle(lambda value, _: f"{value:.3g}")
    axis.tick_params(axis="x", which="both", labelsize=7)
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "a figure needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    return Figure
