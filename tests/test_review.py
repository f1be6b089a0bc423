"""What a reader who did not write the code found, kept from coming back."""

import threading

import numpy as np
import pytest
import torch

from raysb.errors import DataError, StreamOrderError
from raysb.local import LocalStream
from raysb.losses import cross_entropy, mse
from raysb.scoring.cursor import Cursor
from raysb.scoring.records import Grant
from raysb.scoring.settings import Scoring
from raysb.selection import SelectiveBackprop
from raysb.selection.scorer import PoolScoring, Scorer
from raysb.source.open import open_sources
from raysb.source.settings import Data
from raysb.task import Task, inputs
from raysb.training.spec import StreamSpec


def a_task(outputs: int = 3, loss=None) -> Task:
    return Task(
        model=lambda: torch.nn.Linear(4, outputs), forward=inputs("x"), loss=loss or cross_entropy()
    )


def a_pool(pool: int, count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(pool)
    return {
        "id": np.arange(count) + pool * count,
        "pool": np.full(count, pool),
        "x": rng.normal(size=(count, 4)).astype(np.float32),
        "label": rng.integers(3, size=count),
    }


class GateInOrder:
    """Grants pool 1 only after pool 0 is scored."""

    def __init__(self) -> None:
        self.first = threading.Event()
        self.order: list[int] = []

    def grant(self, generation: int, pool: int, num_rows: int) -> Grant:
        if pool:
            assert self.first.wait(10)
        return Grant(0, np.zeros(0, np.float32))

    def scored(self, generation: int, record) -> None:
        self.order.append(record.pool)
        self.first.set()


class Forgets:
    def record(self, scores) -> None:
        pass

    def flush(self) -> None:
        pass


def test_a_pool_that_waits_does_not_keep_an_earlier_one_of_its_scorer_from_being_scored() -> None:
    """Ray replayed the two calls of a killed scorer in reverse order: the second pool slept in the
    gate, the first behind it, and the run with them."""
    gate = GateInOrder()
    scorer = Scorer(
        PoolScoring(task=a_task(), selector=SelectiveBackprop(), seed=0),
        gate,
        Forgets(),
        lambda model: lambda weights: 0,
        lambda pool: (0, 0, 8),
        generation=1,
    )
    calls = [threading.Thread(target=scorer, args=(a_pool(pool),)) for pool in (1, 0)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(10)
    assert gate.order == [0, 1]


def test_the_dtype_of_the_settings_is_that_of_the_scores() -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        spec = StreamSpec(
            source=open_sources(Data(inputs=("x",)), seed=0, train=rows(64)).train,
            task=a_task(),
            selector=SelectiveBackprop(min_probability=1.0),
            scoring=Scoring(batch_size=64, dtype=dtype),
            inputs=("x",),
        )
        stream = LocalStream(spec)
        model = spec.task.build(0)
        batch = next(stream.iter_batches(batch_size=64, epochs=1, model=model))
        losses[dtype] = batch["loss"].numpy()
    assert not np.array_equal(losses["float32"], losses["bfloat16"])
    np.testing.assert_allclose(losses["float32"], losses["bfloat16"], rtol=0.1, atol=0.05)


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 4)).astype(np.float32)
    return {"x": x, "label": rng.integers(3, size=count)}


def test_integers_are_a_fine_target_of_a_regression() -> None:
    table = {**rows(20), "label": np.arange(20) * 1000 - 500}
    sources = open_sources(Data(inputs=("x",)), seed=0, train=table, labels=False)
    assert sources.num_classes is None
    batch = sources.train.read(None, 0, 20)
    assert mse()(torch.zeros(20, 1), {"label": torch.from_numpy(batch["label"])}).shape == (20,)


def test_a_column_with_a_name_of_the_streams_own_is_refused() -> None:
    with pytest.raises(DataError, match="weight"):
        open_sources(Data(inputs=("x",)), seed=0, train={**rows(20), "weight": np.ones(20)})


def test_a_stream_is_iterated_once() -> None:
    spec = StreamSpec(
        source=open_sources(Data(inputs=("x",)), seed=0, train=rows(20)).train,
        task=a_task(),
        selector=SelectiveBackprop(),
        scoring=Scoring(batch_size=10),
        inputs=("x",),
    )
    stream = LocalStream(spec)
    assert stream.cursor == Cursor()
    model = spec.task.build(0)
    next(stream.iter_batches(batch_size=4, epochs=1, model=model))
    with pytest.raises(StreamOrderError, match="second time"):
        next(stream.iter_batches(batch_size=4, epochs=1, model=model))
