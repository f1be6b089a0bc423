"""Plain text for people: aligned columns, and bytes with their unit."""

from collections.abc import Collection, Sequence

_UNITS = ("B", "KB", "MB", "GB", "TB")


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines, columns two blanks apart.

    Args:
        rows: Equally many cells each, without line breaks.
        right: Columns that end at one place, as numbers do; the others begin at one.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths, right)).rstrip() for row in rows]


def _cells(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    return [
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def size(num_bytes: float) -> str:
    """Bytes in the unit that leaves 1 to 999 of it, thousands as in `1.2 MB`."""
    value, unit = float(num_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"
