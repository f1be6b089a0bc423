"""Which steps worker 0 tells the ledger of, alone and beside others, and with what weights."""

import queue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from raysb.scoring.limits import Limits
from raysb.selection import SelectiveBackprop
from raysb.training.stream import RayStream
from raysb.training.teller import Step


class Tells:
    """In the place of the `Teller`: a list of what it was told, and of hurries."""

    ready = False
    fallen_back = False

    def __init__(self) -> None:
        self.told: list[Any] = []

    def tell(self, step: Step) -> None:
        self.told.append(step)

    def hurry(self) -> None:
        self.told.append("hurry")

    def close(self) -> None:
        self.told.append("closed")


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def a_stream(model: nn.Module, *, workers: int = 1, **limits: Any) -> Any:
    stream = RayStream.__new__(RayStream)
    stream.spec = SimpleNamespace(scored=True, selector=SelectiveBackprop())
    stream.exchange = SimpleNamespace(rank=0, world_size=workers)
    stream._limits = Limits(global_batch=4 * workers, **limits)
    stream._teller = Tells()
    stream._weights, stream._untold, stream.fallen_back = None, False, False
    stream.num_steps = stream.num_backpropped = stream._consumed_before = 0
    stream.oldest = stream._published_at = 0
    stream._turn = "next"
    stream.starved_seconds = 0.0
    return stream


def test_a_loop_that_goes_on_without_its_model_is_refused() -> None:
    """Scorers would rank by weights that were just drawn, as if they were those of step 7."""
    stream: Any = RayStream.__new__(RayStream)
    stream.spec = SimpleNamespace(scored=True, identity=lambda batch_size: {})
    stream.num_steps, stream.plan, stream._counters = 7, None, None
    with pytest.raises(
        ValueError, match=r"model=None\) after load_state_dict of step 7.*give model"
    ):
        next(stream.iter_batches(batch_size=4, epochs=1))


def train(stream: Any, model: nn.Module) -> None:
    """One step, after which the weight is the number of steps."""
    stream.num_steps += 1
    with torch.no_grad():
        model.weight.fill_(stream.num_steps)
    stream._publish(model)


def weight_of(step: Step) -> float:
    return float(step.packed["live"][:4].view("float32")[0])


def test_an_only_worker_keeps_back_what_would_not_be_told_of_at_once(model) -> None:
    stream = a_stream(model)
    for number in range(1, 9):
        stream._teller.ready = number in (3, 6)
        train(stream, model)
    assert [(each.step, weight_of(each)) for each in stream._teller.told] == [(3, 3.0), (6, 6.0)]


def test_the_step_that_was_kept_back_is_told_of_before_it_waits_for_rows(model) -> None:
    stream = a_stream(model)
    arrivals: queue.Queue[Any] = queue.Queue()
    train(stream, model)
    arrivals.put("rows")
    assert stream._next(arrivals) == "rows"
    assert stream._teller.told == []  # rows are at hand
    train(stream, model)
    arrivals.empty = lambda: True  # type: ignore[method-assign]
    arrivals.put("more")
    assert stream._next(arrivals) == "more"
    step, hurry = stream._teller.told
    assert (step.step, weight_of(step), hurry) == (2, 2.0, "hurry")
    arrivals.put("last")
    assert stream._next(arrivals) == "last"
    assert stream._teller.told[2:] == ["hurry"]  # once


def ending(stream: Any) -> list[Any]:
    """What is told at the end, and that all is closed."""
    told = stream._teller.told
    stream._history, stream._split, stream._generation = None, None, 0
    stream._handle = SimpleNamespace(
        ledger=SimpleNamespace(close=lambda _: told.append("ledger closed"))
    )
    try:
        stream._close()
    finally:
        assert told[-2:] == ["closed", "ledger closed"]
    return told[:-2]


def test_the_last_step_is_told_of_at_the_end(model) -> None:
    stream = a_stream(model)
    for _ in range(3):
        train(stream, model)
    (step,) = ending(stream)
    assert (step.step, weight_of(step)) == (3, 3.0)


def test_after_half_a_step_the_weights_are_not_told_of(model) -> None:
    stream = a_stream(model)
    train(stream, model)
    stream._turn = "step"  # the optimizer may have stepped
    assert ending(stream) == []


def test_weights_that_cannot_be_read_keep_nothing_open(model) -> None:
    def broken() -> None:
        raise RuntimeError("device-side assert")

    stream = a_stream(model)
    train(stream, model)
    stream._weights.pack = broken
    with pytest.raises(RuntimeError, match="device-side assert"):
        ending(stream)


@pytest.mark.parametrize(
    "given", [{"workers": 2}, {"lockstep": True}, {"publish_every": 3}], ids=str
)
def test_beside_others_in_lockstep_and_for_stale_copies_each_step_is_handed_over(
    model, given
) -> None:
    """Another worker may wait for rows that this step sets free."""
    stream = a_stream(model, **given)
    every = given.get("publish_every", 1)
    for _ in range(6):
        train(stream, model)
    assert [each.step for each in stream._teller.told] == [1, 2, 3, 4, 5, 6]
    packed = [each for each in stream._teller.told if each.packed is not None]
    assert [(each.step, weight_of(each)) for each in packed] == [
        (number, number) for number in range(every, 7, every)
    ]
