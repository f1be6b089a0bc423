"""A window that shows one picture after another, where there is a display."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

IN_A_BROWSER = ("nbagg", "webagg")  # interactive, but no windows


def has_display() -> bool:
    """Whether matplotlib can open windows here."""
    from matplotlib import get_backend
    from matplotlib.backends.registry import BackendFilter, backend_registry

    name, registry = get_backend().lower(), cast(Any, backend_registry)  # it has no types
    windows = registry.list_builtin(BackendFilter.INTERACTIVE)
    return name in windows and name not in IN_A_BROWSER


class Window:
    """Shows pictures of one size; one that was closed stays closed, and nothing waits for it.

    Args:
        title: Of the window.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._number: int | str | None = None

    def show(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Replace the picture. [H, W, C]"""
        from matplotlib import pyplot

        if self._number is None:
            dpi = 100
            size = pixels.shape[1] / dpi, pixels.shape[0] / dpi
            figure = pyplot.figure(num=self._title, figsize=size, dpi=dpi)
            figure.add_axes((0, 0, 1, 1)).imshow(pixels)
            figure.axes[0].set_axis_off()
            self._number = figure.number
            figure.show()
            self.react()  # it gets its size, and with it a canvas of its own
        elif pyplot.fignum_exists(self._number):
            pyplot.figure(self._number).axes[0].images[0].set_data(pixels)
        else:
            return
        # at once: what is to be drawn when the window is idle is not, as the training goes on
        pyplot.figure(self._number).canvas.draw()
        self.react()

    def react(self) -> None:
        """Let it do what was asked of it meanwhile: close, move, draw again what lay beneath."""
        from matplotlib import pyplot

        if self._number is not None and pyplot.fignum_exists(self._number):
            pyplot.figure(self._number).canvas.flush_events()

    def close(self) -> None:
        """Take it away."""
        from matplotlib import pyplot

        if self._number is not None:
            pyplot.close(self._number)
