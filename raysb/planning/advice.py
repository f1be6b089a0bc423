"""What follows from costs and labels: lines of a table, a verdict, a recommendation."""

from collections.abc import Sequence
from dataclasses import dataclass

from raysb.planning.costs import (
    UNIFORM,
    Processors,
    RowCosts,
    Work,
    gain,
    gain_apart,
    gain_at_best,
    mean_work,
    scorers_needed,
    seconds_apart,
    seconds_together,
)
from raysb.planning.labels import Labels

LEAST_GAIN = 1.05  # below it an epoch is not worth what leaving rows out may cost
# Share of the rows whose label has a chance of a half or more, from which on preferring the others
# is recommended. In the records (pipelines/records/frontier*) Selective-Backprop cost more than
# uniform training at test errors of 43 and 14 %, about as much at 8.5 %, less at 6 % and below.
LEAST_EASY = 0.9

PROBE = "raysb train --selector.min_probability 1 --train.epochs 3 --run.dir RUN_DIR"
DEPENDS = (
    "whether that comes to uniform's error sooner depends on the data. What an epoch takes is "
    "measured here, what it teaches is not. In the records, with right labels and at equal error, "
    "stale_selective_backprop with beta 2 took .66 of uniform's cost on redundant rows "
    "(near-duplicate digits, error 4 %), 1.3 times it on rare digits while the error was 14 %, and "
    "never came to uniform's error on CIFAR-10 at 43 %."
)
FRONTIER = (
    "A gain per epoch is not a gain in error: what the rows left out would have taught is not in "
    "it. pipelines/benchmarks/frontier.py compares errors at equal cost."
)


NONE_BETTER = (
    "in the records none came to uniform's error at less cost where 20 % of the labels were wrong, "
    "on near-duplicate digits within a cost of 4"
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What an epoch of a selector takes, on average over a run.

    Args:
        name: The selector in few words.
        work: Shares of the rows that are read, scored and trained.
        seconds: In one process.
        gain: Uniform's seconds over these.
        seconds_apart: With scorers and trainers side by side.
        gain_apart: Seconds of uniform training on all of their processors over these.
        gain_at_best: Uniform's seconds on the trainers alone over these, with any number of
            scorers that cost nothing.
        scorers: With which a trainer never waits; 0 where nothing is scored.
    """

    name: str
    work: Work
    seconds: float
    gain: float
    seconds_apart: float
    gain_apart: float
    gain_at_best: float
    scorers: int

    @property
    def pays(self) -> bool:
        """Whether an epoch takes less than uniform's in one process."""
        return self.gain > 1


def line(
    name: str, epochs: Sequence[Work], costs: RowCosts, processors: Processors, num_rows: int
) -> Line:
    """Predict one selector.

    Args:
        name: In few words.
        epochs: What each epoch of a run is.
        costs: Of a row, scored as this selector scores.
        processors: Scorers and trainers.
        num_rows: Rows of the data.
    """
    work = mean_work(epochs)
    scored = work.scored > 0
    apart = seconds_apart(epochs, costs, processors)
    beside = gain_apart(epochs, costs, processors)
    if not scored:  # no scorers: all processors train
        apart = seconds_together(work, costs) / processors.of_uniform
        beside = costs.uniform / processors.of_uniform / apart
    return Line(
        name=name,
        work=work,
        seconds=num_rows * seconds_together(work, costs),
        gain=gain(work, costs),
        seconds_apart=num_rows * apart,
        gain_apart=beside,
        gain_at_best=gain_at_best(work),
        scorers=scorers_needed(epochs, costs) if scored else 0,
    )


def verdict(chosen: Line, costs: RowCosts, processors: Processors) -> list[str]:
    """Sentences that say whether the configured selector pays, and where."""
    said = [_together(chosen, costs)]
    if chosen.work.scored > 0:
        said.append(_apart(chosen, processors))
    return said


def _together(chosen: Line, costs: RowCosts) -> str:
    takes = f"an epoch takes {1 / chosen.gain:.2f} of uniform's"
    if chosen.work == UNIFORM:
        return "Uniform training is what is configured: nothing to pay back."
    if not chosen.pays:
        why = ""
        if chosen.work.scored == 1:
            even = f"below a kept fraction of {costs.break_even:.2f}"
            even = even if costs.break_even > 0 else "at no kept fraction"
            why = f" (it keeps {chosen.work.kept:.2f} and breaks even {even})"
        return (
            f"In one process uniform training is the better choice: with {chosen.name} "
            f"{takes}{why}."
        )
    hardly = ", which is hardly a gain" if chosen.gain < LEAST_GAIN else ""
    return f"In one process {chosen.name} pays per epoch: {takes}{hardly}."


def _apart(chosen: Line, processors: Processors) -> str:
    s, w, all_of_them = processors.scorers, processors.trainers, processors.of_uniform
    side = f"With {s:g} {_many('scorer', s)} beside {w:g} {_many('trainer', w)}"
    takes = f"an epoch takes {1 / chosen.gain_apart:.2f} of uniform training on "
    takes += "the same processors" if all_of_them > w else f"the {w:g} that train"
    if chosen.gain_apart > 1:
        return f"{side} {takes}: that pays per epoch."
    kept = f" {chosen.name} in one process (--engine local) keeps its gain." if chosen.pays else ""
    return (
        f"{side} {takes}: uniform training is the better choice there, unless the scorers' "
        f"processors could not train.{kept}"
    )


def _many(word: str, number: float) -> str:
    return word if number == 1 else f"{word}s"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A configuration, and why.

    Args:
        flags: Of the command line.
        why: One sentence.
        others: Further flags to try, each a line; `NONE_BETTER` says what came of them.
        cheapest: Flags of the shortest epoch, where it is not what is recommended; none: no epoch
            is much shorter than uniform's, or labels are wrong.
        cheapest_takes: Its seconds over those of uniform's.
    """

    flags: str
    why: str
    others: tuple[str, ...] = ()
    cheapest: str | None = None
    cheapest_takes: float = 1.0


UNIFORM_FLAGS = "--selector.kind uniform"


def recommend(lines: dict[str, Line], labels: Labels | None, costs: RowCosts) -> Recommendation:
    """Choose by what a history says of the rows first, then by cost.

    A selector that leaves rows out is recommended only where a history says that labels are right
    and at least `LEAST_EASY` of the rows easy: the price of an epoch does not say what it teaches.

    Args:
        lines: Predicted, by the flags that configure each; those that may be recommended.
        labels: What a history says; none: it was not asked.
        costs: Of a row, for `train.scoring_cost`.
    """
    charged = f" --train.scoring_cost {costs.ratio:.2f}"
    if labels is not None and labels.finding == "wrong":
        why = f"about {labels.share:.0%} of the labels look wrong, and high losses find these first"
        return Recommendation(flags=UNIFORM_FLAGS, why=why, others=_for_wrong(labels, charged))
    flags, best = max(lines.items(), key=lambda item: item[1].gain)
    takes = 1 / best.gain
    if best.gain < LEAST_GAIN:
        why = f"at best an epoch takes {takes:.2f} of uniform's"
        return Recommendation(flags=UNIFORM_FLAGS, why=why)
    engine = " --engine local" if best.gain_apart <= 1 else ""  # on Ray it would not pay
    flags += charged + engine
    against = _against(labels)
    if against:
        return Recommendation(
            flags=UNIFORM_FLAGS, why=against, cheapest=flags, cheapest_takes=takes
        )
    assert labels is not None
    why = (
        f"the history shows no sign of many wrong labels, {labels.easy:.0%} of the rows are easy, "
        f"and an epoch takes {takes:.2f} of uniform's"
    )
    return Recommendation(flags=flags, why=why)


def _against(labels: Labels | None) -> str:
    """Why no row should be left out yet; empty where the history is for it."""
    if labels is None:
        return "no history says that most of the rows are learned and their labels right"
    if labels.finding == "unknown":
        return "the history does not say whether the rows are learned and their labels right"
    if labels.unlearned_classes:
        return (
            f"of {_many_classes(labels.unlearned_classes)} most rows are not learned: train for "
            "longer, then ask again"
        )
    if labels.finding == "unlearned":
        return (
            f"{labels.unlearned:.0%} of the rows are still mispredicted, so high losses say little "
            "of what is worth learning: the rows are hard, training was short, or labels are wrong"
        )
    if labels.easy < LEAST_EASY:
        return (
            f"only {labels.easy:.0%} of the rows are easy (the label has a chance of a half or "
            f"more), and below {LEAST_EASY:.0%} leaving some out loses more than it saves: train "
            "for longer, then ask again"
        )
    return ""


def _many_classes(classes: tuple[int, ...]) -> str:
    if len(classes) == 1:
        return f"class {classes[0]}"
    named = ", ".join(map(str, classes[:5]))
    return f"classes {named}{', ...' if len(classes) > 5 else ''}"


def _for_wrong(labels: Labels, charged: str) -> tuple[str, ...]:
    """What prefers the highest losses less, or leaves them out.

    The band keeps a floor of each class: without, some runs left out a class that was not learned
    yet, and so never learned it (pipelines/records/frontier_wrong_labels_*).
    """
    band = (
        f"--selector.kind confidence_band --selector.low 0 --selector.high {1 - labels.share:.2f} "
        "--adjust.class_floor 0.5"
    )
    reducible = "--selector.kind reducible_loss --data.irreducible FILE"
    return tuple(flags + charged for flags in ("--selector.beta 0.5", band, reducible))
