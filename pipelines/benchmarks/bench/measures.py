"""What a benchmark says: one line per quantity, with its goal, its repeats and their spread."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

COLUMNS = ("part", "measure", "value", "goal", "n", "spread", "note")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One quantity, measured n times.

    Args:
        part: Letter of the part that measured it.
        name: What it is, with net, shape and unit.
        values: One per repeat, in order; none where the measurement failed.
        at_most: The goal, where less is better.
        at_least: The goal, where more is better.
        note: What a reader must know to judge it, or why there is no value.
    """

    part: str
    name: str
    values: list[float] = field(default_factory=list)
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def value(self) -> float | None:
        """Median of the repeats."""
        return statistics.median(self.values) if self.values else None

    @property
    def verdict(self) -> str:
        """The goal, and whether the median meets it; empty where there is none."""
        if self.at_most is None and self.at_least is None:
            return ""
        goal = f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"
        if self.value is None:
            return goal
        met = self.value <= (self.at_most if self.at_most is not None else float("inf"))
        met &= self.value >= (self.at_least if self.at_least is not None else float("-inf"))
        return f"{goal} {'met' if met else 'MISSED'}"

    def cells(self) -> tuple[str, ...]:
        """The columns of the table, as text."""
        value = "FAILED" if self.value is None else number(self.value)
        spread = ""
        if len(self.values) > 1:
            spread = f"{number(min(self.values))} to {number(max(self.values))}"
        return self.part, self.name, value, self.verdict, str(len(self.values)), spread, self.note

    def to_json(self) -> dict[str, Any]:
        """Plain values, the median among them."""
        return {**asdict(self), "median": self.value}


def failed(part: str, name: str, error: object) -> Measure:
    """The line of a measurement that gave no value."""
    kind = "" if isinstance(error, str) else f"{type(error).__name__}: "
    text = (str(error).strip().splitlines() or [""])[-1]
    return Measure(part=part, name=name, note=f"{kind}{text}"[:200])


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def text_table(measures: Iterable[Measure]) -> str:
    """For a terminal; the notes come last and are not padded."""
    rows = [COLUMNS, *(m.cells() for m in measures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS) - 1)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return "\n".join(lines)


def markdown_table(measures: Iterable[Measure]) -> str:
    """For a record."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(m.cells() for m in measures)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in r) + " |" for r in rows)
