"""Pruning and rebirth by training runs: a criterion, a trainer, and what became of the parent.

```python
run = partial(raysb.SelectiveTrainer, training=raysb.Training(lr=0.005), ...)  # all but model
found = reborn(parent, run, Wanted(criterion="taylor_act", amount=0.3), rounds=3)
```
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from raysb.job import TrainingJob
from raysb.models import load_model
from raysb.prune.rebirth import Outcome, outcome, prune_and_rebirth
from raysb.pruning import Wanted, arguments_of, classes_of, prune_model, spread_batches
from raysb.training.checkpoint import state_digest
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange

SAMPLES = 2048  # training rows for statistics and repair
TIMED = 256  # rows of the forward pass whose time is compared


class Trainer(Protocol):
    """A run that has not begun, with rows held out: `raysb.SelectiveTrainer`."""

    job: TrainingJob

    def fit(self) -> Any:
        """Train; the result says where, `path`."""


def reborn(
    parent: nn.Module,
    run: Callable[..., Trainer],
    wanted: Wanted | None,
    *,
    rounds: int = 3,
    agreement: float = 0.95,
    file: Path | None = None,
) -> Outcome:
    """Prune a classifier and train what is left, round by round, and judge it on held-out rows.

    Args:
        parent: The trained net, in evaluation mode; is not changed.
        run: Called with `model`, a builder: makes the run that trains what it builds, each time in
            a new directory.
        wanted: What goes in each round; `None`: nothing, for a control that is trained as long.
        rounds: As of `prune_and_rebirth`.
        agreement: As of `prune_and_rebirth`, on the held-out rows; their labels are not used.
        file: JSON that the outcome is written to. One of the same parent and settings that is
            there is read instead, so that a comparison of many criteria goes on where it was
            interrupted; one of others is replaced.

    Returns:
        Errors in [0, 1]; sizes and times against the parent, of a batch of 256 training rows.

    Raises:
        ValueError: As of `prune_and_rebirth` and `prune_model`; no rows are held out.
    """
    parent = deepcopy(parent)
    parent.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as runs have it
    job = run(model=partial(deepcopy, parent)).job
    task, source, held_out = job.spec.task, job.spec.source, job.held_out
    if held_out is None:
        raise ValueError("reborn: no rows are held out to judge by; give the trainer an 'eval' set")
    made_with = _settings(parent, job, wanted, rounds=rounds, agreement=agreement)
    if file is not None and (known := _known(file, made_with)) is not None:
        return known
    batches = spread_batches(task, source, SAMPLES)

    def train(model: nn.Module) -> nn.Module:
        build = partial(deepcopy, model)
        return load_model(run(model=build).fit().path, build)

    def cut(model: nn.Module) -> nn.Module:
        return model if wanted is None else prune_model(model, task, batches, wanted).module

    def classes(model: nn.Module) -> torch.Tensor:
        return classes_of(model, task, held_out)

    def error(model: nn.Module) -> float:
        return evaluate(task, model, held_out, Exchange())["eval/error"]

    found = prune_and_rebirth(parent, cut, train, classes, rounds=rounds, agreement=agreement)
    timed = task.tensors(source.read(None, 0, min(TIMED, source.num_rows)))
    made = outcome(parent, found, error, arguments_of(parent, task, timed)[0])
    if file is not None:
        file.write_text(json.dumps({"made_with": made_with, "outcome": made.as_json()}))
    return made


def _settings(parent: nn.Module, job: TrainingJob, wanted: Wanted | None, **bounds: Any) -> Any:
    """What an outcome depends on, as JSON has it: of the parent a digest, of the rows how many."""
    depends = {
        "parent": state_digest(parent.state_dict()),
        "rows": [job.spec.source.num_rows, job.held_out and job.held_out.num_rows],
        "training": asdict(job.training),
        "selector": repr(job.spec.selector),
        "seed": job.spec.seed,
        "wanted": None if wanted is None else asdict(wanted),
        **bounds,
    }
    return json.loads(json.dumps(depends, default=repr))


def _known(file: Path, made_with: Any) -> Outcome | None:
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    return Outcome.from_json(found["outcome"]) if found.get("made_with") == made_with else None
