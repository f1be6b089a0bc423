"""A model made smaller: from a task and some rows to a plan and a small copy.

```python
wanted = Wanted(criterion="taylor_act", budget=("macs", 0.5))
small, plan, _ = prune_model(model, task, batches, wanted)
```
"""

import copy
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from raysb.prune.amounts import Scope, make_plan
from raysb.prune.budget import plan_for_budget
from raysb.prune.costs import Cost, energy, macs, macs_by_channel, parameters, widths_of
from raysb.prune.criteria import Statistics, collect, find_criterion
from raysb.prune.graph import ChannelGraph, trace_channels
from raysb.prune.latency import latency, measure_latency
from raysb.prune.plan import PruningPlan
from raysb.prune.repair import repair
from raysb.prune.surgery import apply
from raysb.schema import Source
from raysb.task import Task, TensorBatch

Budget = Literal["parameters", "macs", "latency", "energy"]
BLOCKS = 16  # places of the data that rows are taken from: files may be sorted by class
BUDGETS: tuple[Budget, ...] = ("parameters", "macs", "latency", "energy")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be pruned, and by which criterion.

    Args:
        criterion: A name of `raysb.prune.criteria`, or an import path.
        criterion_args: Its hyperparameters, by name.
        amount: Share of the channels that goes, in (0, 1).
        keep: Output channels that stay, by layer.
        budget: What is bounded, and the share of it that may remain.
        scope: `global` ranks all channels together, `layer` takes the amount of each layer.
        round_to: What stays is a multiple of this.
        protect: Layers whose outputs stay, by glob patterns.
        normalize: Divide each layer's importance by its norm.
        repair: Let the next layers make up for what is gone, by least squares.
        latency_rows: Rows of a batch whose seconds are measured.
        energy_table: TOML with `mac` and `byte`.
    """

    criterion: str = "taylor_act"
    criterion_args: Mapping[str, Any] = field(default_factory=dict)
    amount: float | None = None
    keep: Mapping[str, int] = field(default_factory=dict)
    budget: tuple[Budget, float] | None = None
    scope: Scope = "global"
    round_to: int = 1
    protect: Sequence[str] = ()
    normalize: bool = True
    repair: bool = False
    latency_rows: int = 1
    energy_table: str | None = None

    def __post_init__(self) -> None:
        for name in ("latency_rows", "round_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.amount is not None and self.budget is not None:
            raise ValueError("amount and budget: give one; a budget finds the amounts itself")
        if self.budget is not None and self.budget[0] not in BUDGETS:
            raise ValueError(f"budget={self.budget[0]!r}: must be one of {', '.join(BUDGETS)}")
        bounds_energy = self.budget is not None and self.budget[0] == "energy"
        if bounds_energy != (self.energy_table is not None):
            raise ValueError("budget energy and energy_table: one needs the other")


@dataclass(frozen=True)
class Judged:
    """A model's channels, and what each is worth.

    Args:
        example: Arguments of its forward, two rows.
        graph: Its channels.
        importance: Of every prunable layer's output channels, higher stays. float64 [out_channels]
        caution: What to know of the criterion, or "".
        statistics: What it knows beside the weights, and where from, or "".
    """

    example: tuple[torch.Tensor, ...]
    graph: ChannelGraph
    importance: dict[str, torch.Tensor]
    caution: str
    statistics: str


@dataclass(frozen=True)
class PrunedModel:
    """A small copy of a model.

    Args:
        module: The copy.
        plan: Makes it of the model.
        remaining: Share of what was bounded, where a budget was.
    """

    module: nn.Module
    plan: PruningPlan
    remaining: float | None


def judge(
    model: nn.Module,
    task: Task,
    batches: Sequence[TensorBatch],
    wanted: Wanted,
    known: Statistics | None = None,
) -> Judged:
    """Trace a model's channels and rank them; the model is not changed.

    Args:
        model: On its device.
        task: How a batch reaches it, and its losses.
        batches: Of the training rows, each from all over the data.
        wanted: The criterion, and what is protected.
        known: Statistics from training; used where they are what the criterion needs, and worth
            as many rows as the batches have.

    Raises:
        ModelError: The model's channels cannot be followed.
        ValueError: The criterion is not known, or nothing may be pruned.
    """
    criterion = find_criterion(wanted.criterion, **wanted.criterion_args)
    first = {name: column[:2] for name, column in batches[0].items()}
    example = arguments_of(model, task, first)
    whole = [n for n, m in model.named_modules() if getattr(m, "transposed", False)]
    graph = trace_channels(model, example, (*wanted.protect, *whole))
    names = graph.prunable
    if not names:
        raise ValueError("nothing may be pruned: every layer is protected, or reaches the output")
    rows = sum(len(next(iter(batch.values()))) for batch in batches)
    if known is not None and known.serve(criterion.needs, names, rows):
        statistics, told = known, f"{known.rows:,} training rows, weighted 1/p"
    else:
        passes = (task.outputs, task.losses, batches, criterion.needs)
        statistics = collect(model, *passes, layers=names)
        told = f"a pass of its own over {statistics.rows:,} rows" if statistics.rows else ""
    if statistics.rows:
        statistics = statistics.with_macs(macs_by_channel(graph))
    importance = criterion.importance(model, names, statistics)
    return Judged(example, graph, importance, criterion.caution, told)


def prune_model(
    model: nn.Module,
    task: Task,
    batches: Sequence[TensorBatch],
    wanted: Wanted,
    judged: Judged | None = None,
) -> PrunedModel:
    """Make a small copy of a model; the model is not changed.

    Args:
        model: On its device.
        task: As of `judge`.
        batches: As of `judge`; repair is fitted to them too.
        wanted: What is to go.
        judged: What `judge` gave, if it was asked already.

    Raises:
        ModelError: As of `judge`.
        ValueError: As of `judge`; nothing would change, or a budget cannot be met.
    """
    known = judge(model, task, batches, wanted) if judged is None else judged
    cost = _cost(model, known.graph, wanted)
    plan = _plan(known, wanted, cost)
    small = apply(plan, copy.deepcopy(model))
    if wanted.repair:
        repair(model, small, plan, [arguments_of(model, task, batch) for batch in batches])
    remaining = None
    if cost is not None:
        left = trace_channels(small, known.example)
        remaining = cost(widths_of(left)) / cost(widths_of(known.graph))
    return PrunedModel(small, plan, remaining)


def arguments_of(model: nn.Module, task: Task, batch: TensorBatch) -> tuple[torch.Tensor, ...]:
    """What a model is called with for a batch."""
    caught: list[tuple[torch.Tensor, ...]] = []
    handle = model.register_forward_pre_hook(lambda _, args: caught.append(args))
    try:
        with torch.no_grad():
            task.outputs(model, batch)
    finally:
        handle.remove()
    return caught[0]


def spread_batches(
    task: Task, source: Source, rows: int, device: torch.device | str = "cpu"
) -> list[TensorBatch]:
    """As many rows, or all there are, each once: in batches from all over the data.

    Raises:
        ValueError: `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows={rows}: must be at least 1")
    rows = min(rows, source.num_rows)
    blocks = min(BLOCKS, rows)
    cuts = np.linspace(0, rows, blocks + 1).astype(int)
    between = np.linspace(0, source.num_rows - rows, blocks).astype(int)  # left out so far
    spans = zip((cuts[:-1] + between).tolist(), (cuts[1:] + between).tolist(), strict=True)
    return [task.tensors(source.read(None, *span), device) for span in spans]


@torch.no_grad()
def classes_of(
    model: nn.Module, task: Task, source: Source, *, batch_size: int = 500
) -> torch.Tensor:
    """The class that a model, in evaluation mode, takes every row for. int64 [rows]"""
    device, end = next(model.parameters()).device, source.num_rows
    starts = range(0, end, batch_size)
    read = (source.read(None, start, min(start + batch_size, end)) for start in starts)
    classes = (task.outputs(model, task.tensors(batch, device)).argmax(1) for batch in read)
    return torch.cat([each.cpu() for each in classes])


def _energy_table(wanted: Wanted) -> dict[str, float]:
    if wanted.energy_table is None:
        return {}
    try:
        return tomllib.loads(Path(wanted.energy_table).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"energy_table={wanted.energy_table!r}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"energy_table={wanted.energy_table!r}: is not TOML: {error}") from error


def _cost(model: nn.Module, graph: ChannelGraph, wanted: Wanted) -> Cost | None:
    if wanted.budget is None:
        return None
    costs: dict[str, Callable[[], Cost]] = {
        "parameters": lambda: parameters(graph),
        "macs": lambda: macs(graph),
        "energy": lambda: energy(graph, _energy_table(wanted)),
        "latency": lambda: latency(measure_latency(model, graph, batch_size=wanted.latency_rows)),
    }
    return costs[wanted.budget[0]]()


def _plan(judged: Judged, wanted: Wanted, cost: Cost | None) -> PruningPlan:
    graph, worth = judged.graph, judged.importance
    same: dict[str, Any] = {"keep": wanted.keep, "round_to": wanted.round_to}
    same["normalize"] = wanted.normalize
    if cost is None or wanted.budget is None:
        return make_plan(graph, worth, wanted.amount, scope=wanted.scope, **same)
    return plan_for_budget(graph, worth, cost, wanted.budget[1], **same)
