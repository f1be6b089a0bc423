"""Whether processes fit onto machines: the sum over a cluster hides that each lies on one of them.

A share of a GPU lies on one GPU, a whole number of them on one machine, a custom resource on the
machines that offer it.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

UNITS = 10_000  # Ray counts in ten-thousandths; whole numbers of them add up without rounding
TRAIN_WORKERS = "train.num_workers x train.num_cpus, num_gpus"  # the flags that ask for them
MOST_TRIES = 2_000  # a second or two on 100 machines
_NONE: Mapping[str, float] = MappingProxyType({})


class Processes(NamedTuple):
    """Several processes that ask for the same."""

    number: int
    cpus: float  # of each
    gpus: float = 0.0  # of each: a share in [0, 1], or a whole number
    resources: Mapping[str, float] = _NONE  # of each: custom ones, amounts by name

    @property
    def total(self) -> tuple[float, float]:
        """CPUs and GPUs of all of them."""
        return self.number * self.cpus, self.number * self.gpus


# free units: of CPUs, of each GPU (descending), of each custom resource
_Machine: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...]]
_Cluster: TypeAlias = tuple[_Machine, ...]


def misplaced(
    processes: Mapping[str, Processes], nodes: Sequence[Mapping[str, float]]
) -> str | None:
    """Name of processes for which no machine is left; `None`: all can be placed.

    Largest first onto the fullest machine that holds it, and every other way if that fails. Past
    `MOST_TRIES` they count as fitting: what might run is never refused.

    Args:
        processes: By the flag that asks for them.
        nodes: What each machine has, by Ray's names: `CPU`, `GPU`, and custom ones.
    """
    names = sorted({name for asked in processes.values() for name in asked.resources})
    processes = {flag: _named(asked, names) for flag, asked in processes.items()}
    kinds = sorted(processes, key=lambda flag: _size(processes[flag]))
    todo = [
        (flag, left) for flag in reversed(kinds) for left in range(processes[flag].number, 0, -1)
    ]
    start = tuple(sorted(_machine(node, names) for node in nodes))
    stack, seen, furthest = [(0, start)], {(0, start)}, 0
    for _ in range(MOST_TRIES):
        if not stack:
            return todo[furthest][0]
        placed, cluster = stack.pop()
        if placed == len(todo):
            return None
        furthest = max(furthest, placed)
        flag, left = todo[placed]
        if _room(cluster, processes[flag]) < left:
            continue
        # the last one pushed is tried next: the fullest machine
        for after in sorted(_placements(cluster, processes[flag]), key=_gaps):
            if (state := (placed + 1, after)) not in seen:
                seen.add(state)
                stack.append(state)
    return None


def _named(asked: Processes, names: Sequence[str]) -> Processes:
    """The same, with an amount of every name, in order."""
    return asked._replace(resources={name: asked.resources.get(name, 0.0) for name in names})


def _size(asked: Processes) -> tuple[bool, float, float]:
    """Those that few machines can hold are placed first, and so are large ones."""
    return any(asked.resources.values()), asked.gpus, asked.cpus


def _machine(node: Mapping[str, float], names: Sequence[str]) -> _Machine:
    gpus = round(node.get("GPU", 0.0) * UNITS)
    whole = (UNITS,) * (gpus // UNITS) + ((gpus % UNITS,) if gpus % UNITS else ())
    custom = tuple(round(node.get(name, 0.0) * UNITS) for name in names)
    return round(node.get("CPU", 0.0) * UNITS), whole, custom


def _custom(process: Processes) -> tuple[int, ...]:
    return tuple(round(amount * UNITS) for amount in process.resources.values())


def _room(cluster: _Cluster, process: Processes) -> int:
    """How many more such processes the cluster can hold."""
    return sum(_room_on(machine, process) for machine in cluster)


def _room_on(machine: _Machine, process: Processes) -> int:
    cpus, gpus = round(process.cpus * UNITS), round(process.gpus * UNITS)
    rooms = [process.number] if cpus == 0 else [machine[0] // cpus]
    if gpus > UNITS:
        rooms.append(machine[1].count(UNITS) // (gpus // UNITS))
    elif gpus:
        rooms.append(sum(free // gpus for free in machine[1]))
    rooms += [free // w for free, w in zip(machine[2], _custom(process), strict=True) if w]
    return min(rooms)


def _placements(cluster: _Cluster, process: Processes) -> Iterator[_Cluster]:
    """The cluster after one more process, for each machine and GPU that can hold it."""
    for machine in set(cluster):
        cpus = machine[0] - round(process.cpus * UNITS)
        custom = tuple(f - w for f, w in zip(machine[2], _custom(process), strict=True))
        if min(cpus, *custom, 0) < 0:
            continue
        others = list(cluster)
        others.remove(machine)
        for gpus in _taken(machine[1], round(process.gpus * UNITS)):
            yield tuple(sorted([*others, (cpus, tuple(sorted(gpus, reverse=True)), custom)]))


def _taken(free: tuple[int, ...], wanted: int) -> Iterator[tuple[int, ...]]:
    """What is left of each GPU."""
    if wanted > UNITS:
        whole = [i for i, units in enumerate(free) if units == UNITS][: wanted // UNITS]
        if len(whole) == wanted // UNITS:
            yield tuple(0 if i in whole else units for i, units in enumerate(free))
    elif wanted == 0:
        yield free
    else:
        for i, units in enumerate(free):
            if units >= wanted and units not in free[:i]:
                yield (*free[:i], units - wanted, *free[i + 1 :])


def _gaps(cluster: _Cluster) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Sorts clusters by their largest gaps: the last one has left most of a machine free."""
    return sorted(((custom, gpus, cpus) for cpus, gpus, custom in cluster), reverse=True)
