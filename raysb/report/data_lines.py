"""What is said of data on the disk: of what was converted, and of what was found."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_CLASSES = 20  # shown one by one; of more, the largest and the smallest
MAX_SKIPPED = 10


def converted_lines(done: Mapping[str, Any]) -> list[str]:
    """Lines on a conversion.

    Args:
        done: The fields of `Converted`.
    """
    columns = ", ".join(f"{name} {kind}" for name, kind in done["columns"].items())
    lines = [
        f"written: {done['path']}: {_count(done['num_rows'], 'row')} in "
        f"{_count(done['num_files'], 'file')}, {_size(done['num_bytes'])}",
        f"columns: {columns}",
    ]
    if (names := done["classes"]) is not None:
        shown = ", ".join(f"{number} {name}" for number, name in enumerate(names[:MAX_CLASSES]))
        more = f", ... ({len(names)} in all)" if len(names) > MAX_CLASSES else ""
        lines.append(f"classes: {shown}{more}")
    if passed := done["passed_over"]:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(passed.items()))
        lines.append(f"passed over, being no pictures: {kinds}")
    if skipped := done["skipped"]:
        lines.append(f"skipped: {_count(len(skipped), 'row')}, all listed in _skipped.json:")
        lines += [f"  {each['name']}: {each['why']}" for each in skipped[:MAX_SKIPPED]]
    return lines


def inspection_lines(found: Mapping[str, Any]) -> list[str]:
    """Lines on what parquet files hold.

    Args:
        found: The fields of `Inspection`, those of its parts as mappings.
    """
    lines = [_place_line(found), "", *_column_lines(found["columns"])]
    for title, part in (
        ("classes", _class_lines(found)),
        ("pictures", _picture_lines(found["pictures"])),
        ("raysb train", _training_lines(found)),
        ("problems", found["problems"]),
    ):
        if part:
            lines += ["", f"{title}:", *(f"  {line}" for line in part)]
    return lines


def _place_line(found: Mapping[str, Any]) -> str:
    rows, size = _count(found["num_rows"], "row"), _size(found["num_bytes"])
    if not found["num_files"]:
        return f"{found['path']}: {rows} of a demo set, {size} in memory"
    least, middle, most = found["rows_per_group"]
    each = f"{most:,}" if least == most else f"{least:,} to {most:,} (median {middle:,})"
    return (
        f"{found['path']}: {rows} in {_count(found['num_files'], 'file')}, {size}, "
        f"{_count(found['num_groups'], 'row group')} of {each} rows"
    )


def _column_lines(columns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [("column", "type", "row", "role", "nulls")]
    rows += [
        (
            each["name"],
            each["type"],
            "" if each["shape"] is None else str(list(each["shape"])),
            each["role"],
            "?" if each["nulls"] is None else f"{each['nulls']:,}",
        )
        for each in columns
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells).rstrip()


def _class_lines(found: Mapping[str, Any]) -> list[str]:
    counts, names = found["class_counts"], found["class_names"]
    if counts is None:
        return []
    titles = {c: str(c) if names is None or c >= len(names) else f"{c} {names[c]}" for c in counts}
    shown, note = list(counts), ""
    if len(counts) > MAX_CLASSES:
        by_size = sorted(counts, key=counts.__getitem__)
        shown = [by_size[-1], by_size[len(counts) // 2], by_size[0]]
        note = f"{len(counts)} in all; the most frequent, the median and the rarest:"
    width = max(len(titles[c]) for c in shown)
    total = sum(counts.values())
    lines = [f"{titles[c]:{width}}  {counts[c]:>9,}  {counts[c] / total:6.1%}" for c in shown]
    empty = [] if names is None else [n for c, n in enumerate(names) if c not in counts]
    absent = [f"without rows: {', '.join(empty[:MAX_CLASSES])}"] if empty else []
    return [*([note] if note else []), *lines, *absent]


def _picture_lines(pictures: Mapping[str, Any] | None) -> list[str]:
    if pictures is None:
        return []
    sizes = ", ".join(f"{h}x{w} ({count})" for h, w, count in pictures["sizes"])
    others = pictures["num_sizes"] - len(pictures["sizes"])
    formats = ", ".join(f"{count} {name}" for name, count in pictures["formats"].items())
    return [
        f"{pictures['looked_at']} looked at: {formats}, {pictures['colour']} in colour",
        f"height x width: {sizes}{f', {others} other sizes' if others > 0 else ''}",
    ]


def _training_lines(found: Mapping[str, Any]) -> list[str]:
    training = found["training"]
    if training is None:
        return []
    shapes = [f"{name} {list(shape)}" for name, shape in training["shapes"].items()]
    lines = [f"rows of {', '.join(shapes)}"]
    if training["num_classes"] is not None:
        lines.append(f"{training['num_classes']} classes")
    if training["mean"] is not None:
        lines.append(
            f"pixels of 0 to 1: mean {_numbers(training['mean'])}, std {_numbers(training['std'])}"
        )
    command = found["command"] or "no target: what is learned is for a loss of one's own to say"
    return [*lines, command]


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1_000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1_000
    return f"{num_bytes:,.3g} TB"
