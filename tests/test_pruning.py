"""A model made smaller without a run directory: a task, some rows, what is wanted."""

import copy

import pytest
import torch
from torch import nn

import raysb
from raysb.prune.surgery import apply
from raysb.pruning import Wanted, judge, prune_model
from raysb.task import Task


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


def task():
    return Task(
        model=build, forward=raysb.inputs("image"), loss=raysb.losses.cross_entropy("label")
    )


def batches(number=3):
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (16, 8, 8, 1), dtype=torch.uint8, generator=generator),
            "label": torch.randint(0, 3, (16,), generator=generator),
        }
        for _ in range(number)
    ]


def test_a_copy_gets_smaller_and_the_model_stays() -> None:
    model = build()
    before = copy.deepcopy(model.state_dict())
    found = prune_model(model, task(), batches(), Wanted(amount=0.5, repair=True))
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    again = apply(found.plan, build())
    again.load_state_dict(found.module.state_dict())
    count = sum(p.numel() for p in found.module.parameters())
    assert count < sum(p.numel() for p in model.parameters())
    assert found.remaining is None


def test_what_remains_of_a_budget_is_told() -> None:
    model = build()
    found = prune_model(model, task(), batches(), Wanted(budget=("parameters", 0.5)))
    sizes = [sum(p.numel() for p in each.parameters()) for each in (model, found.module)]
    assert found.remaining == sizes[1] / sizes[0] <= 0.5


def test_transposed_convolutions_keep_their_outputs_since_no_criterion_ranks_them() -> None:
    judged = judge(build(), task(), batches(), Wanted(criterion="l1"))
    assert list(judged.importance) == ["0", "6"]


@pytest.mark.parametrize("criterion", ["taylor_act", "apoz", "obd", "random"])
def test_criteria_of_every_kind_of_statistics_are_served(criterion) -> None:
    judged = judge(build(), task(), batches(), Wanted(criterion=criterion))
    assert {name: len(each) for name, each in judged.importance.items()} == {"0": 8, "6": 12}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"amount": 0.5, "budget": ("macs", 0.5)}, "give one"),
        ({"budget": ("seconds", 0.5)}, "must be one of parameters, macs"),
        ({"budget": ("energy", 0.5)}, "one needs the other"),
        ({"amount": 0.5, "energy_table": "a.toml"}, "one needs the other"),
        ({"round_to": 0}, "round_to=0"),
        ({"latency_rows": 0}, "latency_rows=0"),
    ],
)
def test_what_is_wanted_must_make_sense(wrong, told) -> None:
    with pytest.raises(ValueError, match=told):
        Wanted(**wrong)


def test_nothing_that_may_go_is_told() -> None:
    with pytest.raises(ValueError, match="nothing may be pruned"):
        prune_model(build(), task(), batches(), Wanted(amount=0.5, protect=["0", "6"]))
