"""A worker group of a changing size: what Ray does with `train.num_workers=1,4`, and when it works.

Ray Train starts as many workers as it counts room for, up to the most. When one is lost, and once a
minute while all are well, it counts again; where the number is another one, the whole group is
started anew, and goes on from the newest checkpoint as `raysb train --resume` does with another
number of workers: every row once, the steps since that checkpoint a second time.

It counts wrongly where workers share a machine with other processes: each machine as if nothing
else lay on it (`ElasticScalingPolicy` asks for what is *reserved* for training, by the totals of
the machines). It would then wait for a place that never comes. So that is refused at the start;
machines that only train workers may use, by a custom resource, are counted right.
"""

from collections.abc import Mapping, Sequence

from raysb.cluster import misfit
from raysb.errors import ResourceError
from raysb.packing import TRAIN_WORKERS, Processes

# Ray counts the machine of a worker that died for some seconds more, and waits a minute for it
START_LIMIT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
_SLACK = 1e-6


def counted_workers(each: Processes, most: int, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers Ray Train counts room for.

    Args:
        each: What a worker asks for.
        most: Workers that are allowed.
        nodes: What each machine has.
    """
    asked = {"CPU": each.cpus, "GPU": each.gpus, **each.resources}
    asked = {kind: amount for kind, amount in asked.items() if amount > 0}
    if not asked:
        return most
    rooms = (min((node.get(k, 0.0) + _SLACK) // n for k, n in asked.items()) for node in nodes)
    return min(int(sum(rooms)), most)


def check_elastic(
    num_workers: "int | tuple[int, int]",
    processes: Mapping[str, Processes],
    nodes: Sequence[Mapping[str, float]],
) -> None:
    """Refuse a worker group of a changing size that would wait for ever for a place.

    Args:
        num_workers: The fewest and the most; nothing is refused of one number.
        processes: By the flag that asks for them, the fewest of each.
        nodes: What each machine has.

    Raises:
        ResourceError: Ray counts room for more workers than find a place beside the others.
    """
    if not isinstance(num_workers, tuple):
        return
    least, most = num_workers
    count = counted_workers(processes[TRAIN_WORKERS], most, nodes)
    grown = {**processes, TRAIN_WORKERS: processes[TRAIN_WORKERS]._replace(number=count)}
    found = misfit(grown, nodes) if count > least else None
    if found is not None:
        raise ResourceError(
            f"train.num_workers={least},{most}: Ray Train would start {count} workers, since it "
            f"counts each machine as if nothing else lay on it, and wait for ever: {found[0]}. Let "
            "only workers use their machines: train.resources={trainer = 1} and `ray start "
            f"--resources` there, or give one number, as train.num_workers={least}"
        )
