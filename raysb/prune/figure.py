"""Pictures of pruning: sorted importance by layer, errors before and after rebirth."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLUMNS = 4
PANEL = (3.0, 2.0)  # inches
BAR, DOT, GREY = "#3f90da", "#bd1f01", "#bbbbbb"


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


def draw_rebirth(errors: Mapping[str, Sequence[float]], parent: float, file: str) -> None:
    """Write a picture of test errors by criterion: a ring before rebirth, a dot after it.

    Args:
        errors: By criterion, [before, after] in percent, above 0.
        parent: That of the parent, a line.
        file: Its ending says the format: png, svg, pdf.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = _figure()(figsize=(7, 0.3 * len(errors) + 1.5), layout="constrained")
    axis, rows = figure.subplots(), range(len(errors))
    before, after = zip(*errors.values(), strict=True)
    axis.hlines(rows, after, before, color=GREY)
    axis.plot(before, rows, "o", color=BAR, fillstyle="none", label="before rebirth")
    axis.plot(after, rows, "o", color=DOT, label="after")
    axis.axvline(parent, color="#222222", linewidth=1, label="parent")
    axis.set_yticks(rows, list(errors))
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="test error [%]")
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
