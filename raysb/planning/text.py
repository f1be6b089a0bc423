"""A plan as people read it."""

import textwrap
from collections.abc import Iterator

from raysb.layout import aligned
from raysb.planning.advice import (
    DEPENDS,
    FRONTIER,
    NONE_BETTER,
    PROBE,
    Line,
    Recommendation,
)
from raysb.planning.costs import Processors
from raysb.planning.labels import Labels
from raysb.planning.run import Plan

WIDTH = 100
MICRO = 1e6
NO_HISTORY = "not looked at. Where many are wrong, high losses find these first."
ALONE = (
    "One class that is not learned yet would look the same, and the labels of the rows are not at "
    "hand to tell: raysb history RUN_DIR --top 50 shows them."
)


def lines(plan: Plan) -> Iterator[str]:
    """The lines, without their ends."""
    yield from _measured(plan)
    yield ""
    yield from _break_even(plan)
    yield ""
    yield from _table(plan)
    yield ""
    for sentence in plan.verdict:
        yield from _wrapped(f"verdict: {sentence}")
    if plan.split is not None and plan.split_gain is not None:
        yield from _wrapped(f"verdict: {_split(plan.split, plan.split_gain)}")
    yield from _wrapped("labels: " + (NO_HISTORY if plan.labels is None else _labels(plan.labels)))
    yield from _recommended(plan.recommended, plan)
    yield from _wrapped(FRONTIER)


def _recommended(found: Recommendation, plan: Plan) -> Iterator[str]:
    if found.cheapest is not None:
        yield from _wrapped(f"cheapest epoch: {found.cheapest}")
        yield from _wrapped(f"  takes {found.cheapest_takes:.2f} of uniform's; {DEPENDS}")
    yield f"recommended: {found.flags}"
    yield from _wrapped(f"  because {found.why}")
    if found.cheapest is not None:
        yield f"to find out: {PROBE}"
        yield from _wrapped(
            "  with these settings (it trains on every row and scores it: an epoch costs 1 + r = "
            f"{1 + plan.costs.ratio:.2f} of uniform's), then raysb plan --history RUN_DIR"
        )
    if found.others:
        yield from _wrapped(f"  or try; {NONE_BETTER}:")
        yield from (f"    {flags}" for flags in found.others)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
    )


def _measured(plan: Plan) -> Iterator[str]:
    found = plan.measured
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    where = f"{found.device}, {threads}" if found.device == "cpu" else found.device
    yield (
        f"{plan.model}, {plan.num_rows:,} rows, {found.batch_size} a step, {found.pool_rows} a "
        f"pool, {where}: {found.clock} time, median of {found.rounds} rounds"
    )
    yield ""
    parts = {"read, decode, augment": found.read}
    forward = "forward" if found.proxy is None else "forward of the proxy"
    parts |= {f"{forward}, {dtype}": seconds for dtype, seconds in found.forward.items()}
    if found.bound is not None:
        parts[f"{forward}, {found.dtype}, bound of the gradient"] = found.bound
    parts[f"score in {found.dtype}: forward, rank, record"] = found.score
    if found.elsewhere is not None:
        parts[f"score in {found.dtype} on a CPU"] = found.elsewhere
    parts["train: forward, backward, step"] = found.train
    rows = [("", "us a row", "of training")]
    for name, seconds in parts.items():
        rows.append((name, f"{seconds * MICRO:.1f}", f"{seconds / found.train:.2f}"))
    yield from aligned(rows, right=(1, 2))


def _break_even(plan: Plan) -> list[str]:
    costs = plan.costs
    pays = f"pays per epoch only while it keeps less than 1 - r = {costs.break_even:.2f} of them"
    return _wrapped(
        f"break-even: scoring a row costs r = {costs.ratio:.2f} of training on it. Who scores all "
        f"rows in the process that trains {pays if costs.break_even > 0 else 'never gains'}."
    )


def _table(plan: Plan) -> Iterator[str]:
    s, w = plan.processors.scorers, plan.processors.trainers
    head = (
        "an epoch",
        "kept",
        "scored",
        "1 process",
        "x",
        f"{s:g} + {w:g}",
        "x",
        "free",
        "scorers",
    )
    rows: list[tuple[str, ...]] = [head, _cells(plan.chosen, "* ")]
    rows += [_cells(each) for each in plan.lines if each.name != plan.chosen.name]
    yield from aligned(rows, right=range(1, len(head)))
    yield from _wrapped(
        f"* configured. Means over {plan.epochs} epochs. 1 process: reads, scores and trains; "
        f"{s:g} + {w:g}: scorers, which also read, beside trainers, on Ray. x: uniform training on "
        "all of these processors over it, above 1 is faster. free: the same against the trainers "
        "alone, with scorers enough that cost nothing. scorers: so many keep one trainer busy."
    )


def _cells(line: Line, mark: str = "") -> tuple[str, ...]:
    work = line.work
    return (
        mark + line.name,
        f"{work.kept:.2f}",
        f"{work.scored:.2f}" if work.scored else "-",
        _seconds(line.seconds),
        f"{line.gain:.2f}",
        _seconds(line.seconds_apart),
        f"{line.gain_apart:.2f}",
        f"{line.gain_at_best:.2f}",
        str(line.scorers) if line.scorers else "-",
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _split(split: Processors, gain: float) -> str:
    better = "uniform training on all of them is the better choice" if gain <= 1 else "it pays"
    return (
        f"Of the {split.cores:g} cores here, {split.scorers:g} to score and {split.trainers:g} to "
        f"train is the best split: {1 / gain:.2f} of uniform training on all; {better}."
    )


def _early(labels: Labels) -> str:
    """What to think of a verdict that came too early; empty for others."""
    if labels.settled:
        return ""
    epochs = "epoch" if labels.num_epochs == 1 else "epochs"
    return (
        f" After {labels.num_epochs} {epochs} these may be rows that are learned late: of 24 "
        "looks at right labels after one or two epochs 9 saw wrong ones. Train on, then ask again."
    )


def _labels(labels: Labels) -> str:
    if labels.finding == "wrong":
        told = ("" if labels.by_class else f" {ALONE}") + _early(labels)
        return (
            f"about {labels.share:.1%} of {labels.num_rows:,} look wrong: their losses lie apart "
            f"from those of the rest (depth of the valley {labels.depth:.2f}).{told}"
        )
    if labels.unlearned_classes:
        return (
            f"no sign of many wrong ones among {labels.num_rows:,} rows: what lies apart is one "
            "class or some classes as a whole, which are not learned."
        )
    if labels.finding == "unlearned":
        return (
            f"cannot be told: {labels.unlearned:.0%} of {labels.num_rows:,} rows are not learned. "
            "Longer training, or one with --selector.min_probability 1, tells."
        )
    if labels.finding == "right":
        return f"no sign of many wrong ones among {labels.num_rows:,} rows."
    return "cannot be told: no prediction was judged right or wrong, or there are too few rows."
