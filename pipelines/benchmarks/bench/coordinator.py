"""Part f: pools a second through Ray Data's split coordinator, to 2 and 8 consumers.

Once through the stream's own flow without scoring (numbers, readers, split), and once with nothing
but numbers: the coordinator alone. Nobody trains and no gate holds anything back.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from bench.measures import Measure, failed
from bench.rays import many_cpus

CONSUMERS = (2, 8)
BATCH, POOL = 1, 32


def measure(repeats: int, pools: int, report: Callable[[Measure], None]) -> None:
    """Every flow and number of consumers, in turn."""
    flows: dict[str, Callable[[int, int], list[Any]]] = {
        "readers and coordinator": _stream_splits,
        "coordinator alone": _number_splits,
    }
    found: dict[str, list[float]] = {}
    with many_cpus(8):
        for _ in range(repeats):
            for count in CONSUMERS:
                for what, flow in flows.items():
                    name = f"{what}, {count} consumers: pools/s"
                    try:
                        found.setdefault(name, []).append(_rate(flow(pools, count)))
                    except Exception as error:
                        report(failed("f", name, error))
    for name, values in found.items():
        if values:
            report(Measure(part="f", name=name, values=values))


def _stream_splits(pools: int, count: int) -> list[Any]:
    """Splits of the stream's own execution, without a gate."""
    from raysb.scoring.cursor import Cursor
    from raysb.scoring.limits import Limits
    from raysb.training.stream import RayStream

    handle = _tiny_stream(pools).start()
    stream = RayStream(handle)
    plan = stream.spec.plan(BATCH, 1)
    stream._limits = Limits(global_batch=BATCH * count)
    stream._generation = handle.ledger.open(stream._limits, Cursor(), plan.num_pools, 0)
    flow = stream._build(plan, BATCH, stream._limits)
    return list(flow.streaming_split(count, equal=False))


def _number_splits(pools: int, count: int) -> list[Any]:
    """Splits of pool numbers; the context is the one that the stream's flow has set."""
    import ray

    numbers = ray.data.from_blocks([pa.table({"pool": np.arange(pools)})])
    flow = numbers.repartition(target_num_rows_per_block=1)
    return list(flow.streaming_split(count, equal=False))


def _tiny_stream(pools: int) -> Any:
    from torch import nn

    from raysb.losses import cross_entropy
    from raysb.scoring.settings import Scoring
    from raysb.selection import Uniform
    from raysb.source.settings import Data
    from raysb.stream import SelectiveStream

    rows = {"x": np.zeros((pools * POOL, 4), np.float32), "label": np.zeros(pools * POOL, np.int64)}
    return SelectiveStream(
        rows,
        model=lambda: nn.Linear(4, 2),
        loss=cross_entropy("label"),
        selector=Uniform(),
        scoring=Scoring(batch_size=POOL),
        data=Data(inputs=("x",)),
    )


def _rate(splits: list[Any]) -> float:
    """Pools a second between a fifth and nine tenths of all arrivals."""
    import ray

    drain = ray.remote(_drain).options(num_cpus=0)
    times = sorted(t for part in ray.get([drain.remote(s) for s in splits]) for t in part)
    first, last = len(times) // 5, len(times) * 9 // 10
    return (last - first) / (times[last] - times[first])


def _drain(split: Any) -> list[float]:
    blocks = split.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy")
    return [time.time() for block in blocks if len(next(iter(block.values())))]
