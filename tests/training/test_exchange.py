"""Every worker sees every worker's numbers; evaluation sums over them."""

import numpy as np
import pytest

from raysb.training.exchange import Exchange


def test_one_worker_gathers_its_own_row() -> None:
    for exchange in (Exchange(alone=True), Exchange()):  # no process group here
        numbers = np.array([1.0, 2.0**62, -1.0])
        assert exchange.gather(numbers).tolist() == [numbers.tolist()]
        assert exchange.sum(numbers).tolist() == numbers.tolist()
        assert exchange.gather_objects({"a": 1}) == [{"a": 1}]
        assert (exchange.rank, exchange.world_size) == (0, 1)


SCRIPT = """
from raysb.source.arrays import ArraySource
from raysb.task import Task, inputs
from raysb.training.evaluation import evaluate
from raysb.training.exchange import Exchange

exchange = Exchange()
found = {
    "where": [exchange.rank, exchange.world_size],
    "gather": exchange.gather(np.array([rank, 2.0**62 * (rank == 1), .1 * rank])).tolist(),
    "sum": exchange.sum(np.array([1.0, rank])).tolist(),
    "objects": exchange.gather_objects({rank: "x" * rank}) == [{0: ""}, {1: "x"}, {2: "xx"}],
    "alone": Exchange(alone=True).world_size,
}
class Counted(ArraySource):
    read_rows = 0
    def read(self, epoch, start, stop):
        self.read_rows += stop - start
        return super().read(epoch, start, stop)

rng = np.random.default_rng(0)
task = Task(model=lambda: nn.Linear(4, 3), forward=inputs("x"),
            loss=lambda o, b: nn.functional.cross_entropy(o, b["label"], reduction="none"),
            correct=lambda o, b: o.argmax(1) == b["label"])
for rows in (103, 5):   # 5: some workers have nothing to evaluate
    x = rng.normal(size=(rows, 4)).astype(np.float32)
    source = Counted({"x": x, "label": rng.integers(0, 3, rows)})
    model = task.build(0)
    evaluate(task, task.build(0), source, exchange, batch_size=10)
    found[f"read {rows}"] = source.read_rows
    found[str(rows)] = [evaluate(task, model, source, each, batch_size=10)
                        for each in (exchange, Exchange(alone=True))]
"""


@pytest.mark.gloo
def test_three_workers_decide_on_the_same_numbers_and_evaluate_as_one(gloo) -> None:
    found = gloo(SCRIPT, workers=3)
    for rank, one in enumerate(found):
        assert one["where"] == [rank, 3]
        assert one["gather"] == [[0, 0, 0], [1, 2.0**62, 0.1], [2, 0, 0.2]]
        assert one["sum"] == [3, 3]
        assert one["objects"]
        assert one["alone"] == 1
        for rows in ("103", "5"):
            together, alone = one[rows]
            assert together == pytest.approx(alone, rel=1e-6)
            assert together == found[0][rows][0]
    assert [one["read 103"] for one in found] == [40, 33, 30]  # each reads every third batch
    assert [one["read 5"] for one in found] == [5, 0, 0]
