"""What a configuration asks Ray for, CPUs, GPUs, custom resources, and which flag makes it fit.

A flag is named only after the request was counted again with it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from raysb.cluster import misfit as misfit_of
from raysb.cluster import total
from raysb.config import Config
from raysb.packing import TRAIN_WORKERS, Processes
from raysb.placement import amounts, least_of
from raysb.scoring.settings import Scoring
from raysb.training.settings import Training

Resources: TypeAlias = dict[str, float]  # by Ray's names: CPU, GPU

LEAST_CPUS = 0.1  # below it a process that computes is not worth its start
_COUNTS = (("train", "num_workers"), ("scoring", "num_actors"))
_CPUS = (("scoring", "num_cpus"), ("train", "num_cpus"))
_GPUS = (("scoring", "num_gpus"), ("train", "num_gpus"))


@dataclass(frozen=True)
class _Stream:
    """The part of a `StreamSpec` that says what its actors ask for."""

    scored: bool
    scoring: Scoring
    num_readers: int


def uses_gpu(train: Training, there: Mapping[str, float]) -> bool:
    """Whether each train worker asks for a GPU; `auto` where there are enough."""
    if train.use_gpu == "auto":
        return there.get("GPU", 0) >= train.min_workers * train.num_gpus
    return train.use_gpu


def processes_of(config: Config, there: Resources) -> dict[str, Processes]:
    """The processes of a run, by the flags that ask for them; the same as a run counts."""
    from raysb.stream import stream_processes  # loads Ray

    train = config.train
    gpus = train.num_gpus if uses_gpu(train, there) else 0.0
    stream = _Stream(config.selector.needs_scores, config.scoring, config.data.num_readers)
    return {
        TRAIN_WORKERS: Processes(train.min_workers, train.num_cpus, gpus, amounts(train.resources)),
        **stream_processes(cast(Any, stream)),
    }


def needs_of(config: Config, there: Resources) -> dict[str, tuple[float, float]]:
    """(CPUs, GPUs) that these ask for in all, by flag."""
    return {flag: processes.total for flag, processes in processes_of(config, there).items()}


def misfit(config: Config, nodes: Sequence[Resources]) -> str | None:
    """Why Ray would wait for ever, in words; `None` where everything fits.

    Args:
        config: The run's.
        nodes: What each machine has.
    """
    misfits = misfit_of(processes_of(config, total(nodes)), nodes)
    return None if misfits is None else misfits[0]


def mends(config: Config, nodes: Sequence[Resources]) -> list[str]:
    """What to add to the command line so that a request fits that does not, the best first.

    Fewer processes, smaller ones or a share of a GPU alone; else several of these at once; else a
    share of a CPU; empty where only more machines help.

    Args:
        config: The run's, whose request does not fit.
        nodes: What each machine has.
    """
    found = [_fitting(config, nodes, *field) for field in (*_COUNTS, *_GPUS)]
    found += [_fitting(config, nodes, *field, least=1) for field in _CPUS]
    without = _with(config, "train", "use_gpu", False)
    if without is not None and misfit(without, nodes) is None:
        found.append("--train.use_gpu false")
    found += [] if any(found) else [_anywhere(config, nodes)]
    found = found if any(found) else [_several(config, nodes)]
    found += [] if any(found) else [_fitting(config, nodes, *field) for field in _CPUS]
    return [flag for flag in found if flag]


def _fitting(
    config: Config, nodes: Sequence[Resources], section: str, name: str, *, least: float = 0.1
) -> str:
    """The flag with the largest smaller value with which everything fits, or nothing."""
    present = getattr(getattr(config, section), name)
    for value in _smaller(name, present):
        other = _with(config, section, name, value) if value >= least else None
        if other is not None and misfit(other, nodes) is None:
            return f"--{section}.{name} {value:g}"
    return ""


def _smaller(name: str, value: Any) -> Iterator[float]:
    """Values to try, downwards: whole numbers, then tenths of a processor; of a word none."""
    if isinstance(value, str | bool):
        return
    value = least_of(value)  # what a request is judged by
    whole = name in ("num_workers", "num_actors")
    yield from range(min(math.ceil(value) - 1, 4096), 0, -1)
    if not whole:
        yield from (tenths / 10 for tenths in range(9, 0, -1) if tenths / 10 < value)


def _with(config: Config, section: str, name: str, value: Any) -> Config | None:
    """The configuration with one other value; `None` where that is not allowed."""
    try:
        return replace(config, **{section: replace(getattr(config, section), **{name: value})})
    except ValueError:
        return None


def _anywhere(config: Config, nodes: Sequence[Resources]) -> str:
    """The flags that let processes lie on any machine, where the request fits with them."""
    held = [section for section in ("scoring", "train") if getattr(config, section).resources]
    for freed in [*([each] for each in held), held]:
        other = config
        for section in freed:
            other = _with(other, section, "resources", {}) or other
        if misfit(other, nodes) is None:
            return " ".join(f"--{section}.resources {{}}" for section in freed)
    return ""


def _several(config: Config, nodes: Sequence[Resources]) -> str:
    """One scorer, then few enough workers, then no GPU, then small shares: until it fits."""
    flags: list[str] = []
    there = total(nodes)
    steps: list[tuple[str, str, Any]] = [("scoring", "num_actors", 1), ("train", "num_workers", 1)]
    steps += [("train", "use_gpu", False), ("scoring", "num_gpus", 0)]
    steps += [(*field, LEAST_CPUS) for field in _CPUS]
    for section, name, value in steps:
        if flags and (last := _fitting(config, nodes, section, name)):
            return " ".join([*flags, last])
        other = _with(config, section, name, value)
        if other is None or processes_of(other, there) == processes_of(config, there):
            continue
        config = other
        flags.append(f"--{section}.{name} {str(value).lower()}")
        if misfit(config, nodes) is None:
            return " ".join(flags)
    return ""
