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

FRONTIER = (
    "A gain per epoch is not a gain in error: what the rows left out would have taught is not in "
    "it. pipelines/benchmarks/frontier.py compares errors at equal cost."
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
        others: Further flags to try, each a line.
    """

    flags: str
    why: str
    others: tuple[str, ...] = ()


def recommend(lines: dict[str, Line], labels: Labels | None, costs: RowCosts) -> Recommendation:
    """Choose by the labels first, then by cost.

    Args:
        lines: Predicted, by the flags that configure each; those that may be recommended.
        labels: What a history says; none: it was not asked.
        costs: Of a row, for `train.scoring_cost`.
    """
    charged = f" --train.scoring_cost {costs.ratio:.2f}"
    uniform = "--selector.kind uniform"
    if labels is not None and labels.finding == "wrong":
        why = f"about {labels.share:.0%} of the labels look wrong, and high losses find these first"
        return Recommendation(flags=uniform, why=why, others=_for_wrong(labels, charged))
    if labels is not None and labels.finding == "unlearned":
        why = (
            f"{labels.unlearned:.0%} of the rows are still mispredicted, so high losses say little "
            "of what is worth learning: the rows are hard, training was short, or labels are wrong"
        )
        return Recommendation(flags=uniform, why=why)
    flags, best = max(lines.items(), key=lambda item: item[1].gain)
    if best.gain < LEAST_GAIN:
        why = f"at best an epoch takes {1 / best.gain:.2f} of uniform's"
        return Recommendation(flags=uniform, why=why)
    known = {
        "right": "the history shows no sign of many wrong labels, and ",
        "unknown": "the history does not say whether labels are wrong; ",
    }
    before = "" if labels is None else known[labels.finding]
    why = f"{before}an epoch takes {1 / best.gain:.2f} of uniform's"
    engine = " --engine local" if best.gain_apart <= 1 else ""  # on Ray it would not pay
    return Recommendation(flags=flags + charged + engine, why=why)


def _for_wrong(labels: Labels, charged: str) -> tuple[str, ...]:
    """What prefers the highest losses less, or leaves them out."""
    band = (
        f"--selector.kind confidence_band --selector.low 0 --selector.high {1 - labels.share:.2f}"
    )
    reducible = "--selector.kind reducible_loss --data.irreducible FILE"
    return tuple(flags + charged for flags in ("--selector.beta 0.5", band, reducible))
