"""A finished run made smaller: `raysb prune`.

The new directory holds the run's configuration, the plan and the weights that are left, so that
`raysb.load_model` and every command on runs take it like any other. Reborn it is by training:
`raysb train --config DIR/config.toml --model.plan DIR/plan.safetensors --model.init
DIR/model.safetensors --train.lr SMALL`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import nn

from raysb.config import Config, to_toml
from raysb.errors import RunDirectoryError
from raysb.evaluate import OpenedRun, open_run
from raysb.models import bare, plan_of
from raysb.prune.amounts import layers_at_least
from raysb.prune.costs import macs, widths_of
from raysb.prune.criteria import Statistics
from raysb.prune.graph import ChannelGraph, trace_channels
from raysb.prune.plan import PLAN, PruningPlan
from raysb.pruning import Wanted, judge, prune_model, spread_batches
from raysb.report.directory import MODEL, RunDirectory
from raysb.task import TensorBatch
from raysb.training.channel_statistics import saved_statistics
from raysb.training.checkpoints import Checkpoints

ROWS = 1024  # for statistics, where training kept none, and for repair


@dataclass(frozen=True)
class LayerSummary:
    """A layer as it is shown.

    Args:
        name: As in `named_modules`.
        weight: Shape of its weight.
        macs: Multiply-accumulates for one row.
        tied: Other layers that make the same channels.
        importance: Of its output channels, falling; `None` where they stay.
    """

    name: str
    weight: tuple[int, ...]
    macs: int
    tied: tuple[str, ...]
    importance: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a net is: parameters, bytes of its file, multiply-accumulates for one row."""

    parameters: int
    bytes: int
    macs: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What may be pruned of a run.

    Args:
        run: The run directory.
        criterion: Its name.
        caution: What to know of it, or "".
        statistics: What it knows beside the weights, and where from, or "".
        layers: All of them, in order.
        size: Of the net.
    """

    run: str
    criterion: str
    caution: str
    statistics: str
    layers: tuple[LayerSummary, ...]
    size: Size


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was pruned.

    Args:
        run: The run directory.
        out: The new one.
        criterion: Its name.
        caution: What to know of it, or "".
        statistics: What it knows beside the weights, and where from, or "".
        channels: By layer, output channels before and after.
        least: Layers of which the fewest channels stay that may.
        before: Size of the net.
        after: Of the small one.
        budget: What was bounded, and the share of it that remains.
        rebirth_lr: A tenth of the rate that the run was trained with.
    """

    run: str
    out: str
    criterion: str
    caution: str
    statistics: str
    channels: dict[str, tuple[int, int]]
    least: tuple[str, ...]
    before: Size
    after: Size
    budget: tuple[str, float] | None
    rebirth_lr: float


def show_run(
    run: str, wanted: Wanted, flags: Sequence[str] = (), *, rows: int | None = None
) -> Shown:
    """What of a run may be pruned, and what each channel is worth; nothing is written.

    Args:
        run: Directory of a run of `raysb train`, or a pruned one.
        wanted: The criterion, and what is protected.
        flags: Settings that take the place of the run's.
        rows: Training rows for statistics, at least 1; `None`: those of training, where it kept
            some (`train.statistics`), else 1024.

    Raises:
        RaysbError: The run, its model or its rows cannot be used.
        ValueError: The criterion or a setting is not known.
    """
    opened = open_run(run, flags, train=True)
    known = _known(run, opened, rows)
    judged = judge(
        opened.module, opened.task, _batches(opened, ROWS if rows is None else rows), wanted, known
    )
    graph, each = judged.graph, macs_by_layer(judged.graph)
    layers = tuple(
        LayerSummary(
            name,
            tuple(opened.module.get_parameter(f"{name}.weight").shape),
            round(each[name]),
            _tied(graph, name),
            _falling(judged.importance.get(name)),
        )
        for name in graph.layers
    )
    return Shown(
        run=run,
        criterion=wanted.criterion,
        caution=judged.caution,
        statistics=judged.statistics,
        layers=layers,
        size=_size(opened.module, graph),
    )


def prune_run(
    run: str,
    wanted: Wanted,
    flags: Sequence[str] = (),
    *,
    rows: int | None = None,
    out: str | None = None,
) -> Pruned:
    """Write a smaller copy of a run.

    Args:
        run: Directory of a run of `raysb train`, or a pruned one.
        wanted: What is to go.
        flags: Settings that take the place of the run's.
        rows: Training rows for statistics and repair, at least 1; `None`: statistics of training,
            where it kept some, and 1024.
        out: Directory to write; `None`: the next free `runs/<run>-pruned-<n>`.

    Raises:
        RaysbError: The run, its model or its rows cannot be used, or the directory is taken.
        ValueError: Nothing would change, a budget cannot be met, or a setting is not known.
    """
    try:
        directory = RunDirectory.claim(out, model=f"{Path(run).name}-pruned")
    except RunDirectoryError as error:
        raise RunDirectoryError(str(error).replace("--run.dir", "--out")) from error
    opened = open_run(run, flags, train=True)
    batches = _batches(opened, ROWS if rows is None else rows)
    judged = judge(opened.module, opened.task, batches, wanted, _known(run, opened, rows))
    pruned = prune_model(opened.module, opened.task, batches, wanted, judged)
    left = trace_channels(pruned.module, judged.example)
    directory = directory.create()
    _write(directory, run, opened.config, pruned.plan, pruned.module)
    return Pruned(
        run=run,
        out=str(directory.path),
        criterion=wanted.criterion,
        caution=judged.caution,
        statistics=judged.statistics,
        channels=_channels(judged.graph, pruned.plan),
        least=tuple(layers_at_least(judged.graph, pruned.plan)),
        before=_size(opened.module, judged.graph),
        after=_size(pruned.module, left),
        budget=wanted.budget and (wanted.budget[0], pruned.remaining or 0.0),
        rebirth_lr=opened.config.train.lr / 10,
    )


def _known(run: str, opened: OpenedRun, rows: int | None) -> Statistics | None:
    """What the run's newest checkpoint adds up for pruning; `None` where rows are asked for.

    Checkpoints that were removed, or lie where this machine cannot read them, are no reason to
    stop: there is a pass over rows.
    """
    if rows is not None or not opened.config.train.statistics:
        return None
    checkpoints = Checkpoints(folder=opened.config.run.checkpoints or str(Path(run).absolute()))
    try:
        newest = checkpoints.newest()
        if newest is None:
            return None
        return saved_statistics(checkpoints.load_learner(newest))
    except (OSError, RunDirectoryError):
        return None


def _batches(opened: OpenedRun, rows: int) -> list[TensorBatch]:
    """Training rows from all over the data, on the model's device."""
    device = next(opened.module.parameters()).device
    return spread_batches(opened.task, opened.source, rows, device)


def _tied(graph: ChannelGraph, name: str) -> tuple[str, ...]:
    found = {n for group in graph.groups if name in group.layers for n in group.layers}
    return tuple(n for n in graph.layers if n in found and n != name)


def _falling(values: torch.Tensor | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values.sort(descending=True).values.tolist())


def macs_by_layer(graph: ChannelGraph) -> dict[str, float]:
    """Multiply-accumulates of each layer for one row."""
    return {
        name: macs(replace(graph, layers={name: each}))(widths_of(graph))
        for name, each in graph.layers.items()
    }


def _size(model: nn.Module, graph: ChannelGraph) -> Size:
    state = model.state_dict()
    return Size(
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=sum(each.numel() * each.element_size() for each in state.values()),
        macs=round(macs(graph)(widths_of(graph))),
    )


def _channels(graph: ChannelGraph, plan: PruningPlan) -> dict[str, tuple[int, int]]:
    sizes = {name: len(layer.outputs) for name, layer in graph.layers.items()}
    return {
        name: (size, len(plan.modules[name].outputs) if name in plan.modules else size)
        for name, size in sizes.items()
    }


def _write(
    directory: RunDirectory, run: str, config: Config, plan: PruningPlan, small: nn.Module
) -> None:
    """What lies in the directory of a pruned run. An earlier plan of the run goes before this."""
    earlier = plan_of(Path(run), config.model)
    if earlier is not None:
        plan = PruningPlan.load(earlier).then(plan)
    plan.save(directory.path / PLAN)
    # the plan lies beside it, and the weights are all here; checkpoints elsewhere are the parent's
    settings = replace(config.run, dir=None, checkpoints=None)
    again = replace(config, model=bare(config.model), run=settings)
    directory.config.write_text(to_toml(again))
    save_model(small, str(directory.path / MODEL))
