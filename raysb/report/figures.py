"""The figures of a run for a terminal: which there are, how they read, how they fill its width."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text

from raysb.report.console import duration

Record = Mapping[str, Any]
WINDOW_S = 10.0  # over which rates are taken: rows are scored pool by pool
WIDE = 80  # columns from which on the bar is long
LABEL, VALUE, DONE, REST = "dim", "bold", "cyan", "dim"
GIGA = 1e9
MOST_GPUS = 4  # processes whose GPUs have a figure each
_USED, _TOTAL, _USE = "memory_used", "memory_total", "utilization"  # after gpu/, gpu/worker1/

_NEXT = {  # what a start is busy with after each of its phases
    "": "checking",
    "checks": "starting",
    "ray": "starting workers",
    "workers": "waiting for the first batch",
}
_RATES = (("num_scored", "scored"), ("num_backpropped", "back-propagated"))
_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("kept", "kept", lambda v: f"{v:.0%}"),
    ("age", "age", lambda v: f"{v:.1f} steps"),
    ("scorers/running", "scorers", lambda v: f"{v:.0f}"),
    ("score/loss", "loss", lambda v: f"{v:.4g}"),
    ("eval/error", "test error", lambda v: f"{v:.2%}"),
)


class Figures:
    """What is known of a run at the moment, as rows of text.

    Args:
        clock: Seconds, for what goes on between two records.
        ascii: Use no character beyond ASCII.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, ascii: bool = False) -> None:
        self._clock = clock
        self._ascii = ascii
        self._phases: dict[str, float] = {}
        self._began = clock()
        self._window: deque[Record] = deque()
        self._record: Record = {}
        self._arrived = 0.0

    def phase(self, name: str, seconds: float) -> None:
        """A phase of the start is over."""
        self._phases[name] = seconds
        self._began = self._clock()

    def update(self, record: Record) -> None:
        """Take a record of the keys listed in `raysb.report.console`."""
        if self._record and record["wall_time_s"] < self._record["wall_time_s"]:
            self._window.clear()  # training was started again, and what came after that is undone
        self._record, self._arrived = record, self._clock()
        self._window.append(record)
        oldest = record["wall_time_s"] - WINDOW_S
        while len(self._window) > 2 and self._window[1]["wall_time_s"] <= oldest:
            self._window.popleft()

    def rows(self, width: int) -> list[Text]:
        """The figures in as many rows as the width needs, none longer than it. [columns]"""
        cells = self._training(width) if self._record else self._starting()
        return pack(cells, width, " | " if self._ascii else " · ")

    def _starting(self) -> list[Text]:
        done = [_cell(name, f"{seconds:.1f} s") for name, seconds in self._phases.items()]
        last = next(reversed(self._phases), "")
        return [*done, _cell(_NEXT.get(last, "starting"), f"{self._clock() - self._began:.0f} s")]

    def _training(self, width: int) -> list[Text]:
        record = self._record
        cells = [self._epoch(), self._bar(20 if width >= WIDE else 10), self._left()]
        cells += [_cell(label, _rate(self._window, key)) for key, label in _RATES]
        cells += [_cell(label, _text(record, key, text)) for key, label, text in _FIGURES]
        return [cell for cell in [*cells, *_gpus(record)] if cell.plain]

    def _epoch(self) -> Text:
        in_all = _text(self._record, "epochs", lambda v: f"/{v:.4g}")
        return _cell("epoch", _text(self._record, "epoch", lambda v: f"{v:.2f}{in_all}"))

    def _bar(self, columns: int) -> Text:
        share = self._record.get("share")
        if share is None:
            return Text()
        full, empty = ("#", "-") if self._ascii else ("━", "─")
        done = math.floor(columns * share)
        return Text.assemble(
            (full * done, DONE), (empty * (columns - done), REST), (f" {share:.0%}", VALUE)
        )

    def _left(self) -> Text:
        left = self._record.get("left_s")
        if left is None:
            return Text()
        left = max(left - (self._clock() - self._arrived), 0.0)
        return Text.assemble((duration(left), VALUE), (" left", LABEL))


def pack(cells: Sequence[Text], width: int, between: str) -> list[Text]:
    """Lay cells into rows of at most `width` columns, in order; a longer cell is cut."""
    rows: list[Text] = []
    for cell in cells:
        if rows and rows[-1].cell_len + len(between) + cell.cell_len <= width:
            rows[-1].append(between, LABEL).append_text(cell)
        else:
            rows.append(cell.copy())
    for row in rows:
        row.truncate(width)
    return rows


def _cell(label: str, value: str) -> Text:
    return Text.assemble((f"{label} ", LABEL), (value, VALUE)) if value else Text()


def _text(record: Record, key: str, text: Callable[[float], str]) -> str:
    value = record.get(key)
    return text(value) if value is not None and math.isfinite(value) else ""


def _rate(window: Sequence[Record], key: str) -> str:
    """Rows a second between the oldest and the newest record of the window."""
    first, last = window[0], window[-1]
    seconds = last["wall_time_s"] - first["wall_time_s"]
    if seconds <= 0 or not last.get(key):
        return ""
    return f"{(last[key] - first.get(key, 0)) / seconds:,.0f}/s"


def _gpus(record: Record) -> list[Text]:
    """Memory and use of the GPU of each process; of many, from the least to the most."""
    prefixes = [key.removesuffix(_USED) for key in record if key.endswith(_USED)]
    if prefixes == ["gpu/"]:
        return [_cell("GPU", _gpu(record, "gpu/"))]
    if len(prefixes) <= MOST_GPUS:
        names = [prefix.removeprefix("gpu/").rstrip("/") or "worker0" for prefix in prefixes]
        return [
            _cell(f"GPU {name}", _gpu(record, prefix))
            for name, prefix in zip(names, prefixes, strict=True)
        ]
    used = [record[prefix + _USED] / GIGA for prefix in prefixes]
    uses = [record[prefix + _USE] for prefix in prefixes if prefix + _USE in record]
    use = f", {min(uses):.0%} to {max(uses):.0%}" if uses else ""
    return [_cell(f"{len(prefixes)} GPU processes", f"{min(used):.1f} to {max(used):.1f} GB{use}")]


def _gpu(record: Record, prefix: str) -> str:
    used, total = record.get(prefix + _USED), record.get(prefix + _TOTAL)
    if used is None or total is None:
        return ""
    use = _text(record, prefix + _USE, lambda v: f", {v:.0%}")
    return f"{used / GIGA:.1f}/{total / GIGA:.0f} GB{use}"
