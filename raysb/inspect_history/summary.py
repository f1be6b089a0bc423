"""What a history says, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raysb.history.records import NEVER
from raysb.inspect_history.records import RunHistory
from raysb.printable import printable


@dataclass(frozen=True, kw_only=True)
class Written:
    """A file that was written.

    Args:
        path: Its name as given.
        num_bytes: Its size.
        columns: Of a table.
    """

    path: str
    num_bytes: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many samples there are of each kind.

    Args:
        num_samples: Known ones.
        num_epochs: Epochs that at least began.
        num_steps: Optimizer steps.
        num_never_learned: Never predicted rightly; None where nothing ever was.
        num_forgotten: Forgotten at least once; None likewise.
        num_never_selected: Never selected.
        num_nonfinite: With a loss that was NaN or infinite at least once.
    """

    num_samples: int
    num_epochs: int
    num_steps: int
    num_never_learned: int | None
    num_forgotten: int | None
    num_never_selected: int
    num_nonfinite: int


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What a history says.

    Args:
        run: The run directory.
        checkpoint: Name of the checkpoint that it was read from.
        counts: Samples by kind.
        by: The order of the list.
        top: What is known of each sample of the list, by column; what is not is None.
        classes: Names of the classes by number, where the files know them.
        export: The file of all samples, where one was asked for.
        images: The picture, where one was asked for.
    """

    run: str
    checkpoint: str
    counts: Counts
    by: str
    top: list[dict[str, Any]]
    classes: tuple[str, ...] | None
    export: Written | None
    images: Written | None

    def as_json(self) -> dict[str, Any]:
        """Everything as numbers, text, and lists and dicts of them."""
        found = asdict(self)
        found["top"] = [{k: _finite(v) for k, v in sample.items()} for sample in self.top]
        return {"run": found.pop("run"), **found.pop("counts"), **found}


def _finite(value: Any) -> Any:
    """JSON has no infinity, which a variance may be."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def count(history: RunHistory) -> Counts:
    """Count the samples of each kind."""
    samples, judged = history.samples, history.judged

    def num(column: str, value: int = 0) -> int:
        return int(np.count_nonzero(samples[column] != value))

    return Counts(
        num_samples=history.num_samples,
        num_epochs=history.num_epochs,
        num_steps=history.num_steps,
        num_never_learned=history.num_samples - num("first_learned_epoch", NEVER)
        if judged
        else None,
        num_forgotten=num("forgetting_events") if judged else None,
        num_never_selected=history.num_samples - num("times_selected"),
        num_nonfinite=num("times_nonfinite"),
    )


def show(value: Any, names: Sequence[str] | None = None) -> str:
    """A value as people read it: three digits, a class by its name on one line, nothing as `-`."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    known = names is not None and isinstance(value, int) and 0 <= value < len(names)
    return printable(names[value] if known and names is not None else str(value))
