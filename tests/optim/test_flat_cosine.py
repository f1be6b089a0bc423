"""FlatCosineLR against torch's schedulers and against `train.schedule=flat_cosine`."""

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, SequentialLR

from raysb.optim import FlatCosineLR
from raysb.training.schedule import factor

STEPS = 40


def make_optimizer(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in rates]
    return torch.optim.SGD(groups)


def rates(optimizer, scheduler, steps=STEPS):
    """The groups' rates before each of some steps and after the last."""
    found = [[float(group["lr"]) for group in optimizer.param_groups]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append([float(group["lr"]) for group in optimizer.param_groups])
    return found


def test_it_is_torchs_constant_then_torchs_cosine():
    ours, torchs = make_optimizer(0.3), make_optimizer(0.3)
    parts = [
        ConstantLR(torchs, factor=1.0),
        CosineAnnealingLR(torchs, 10, eta_min=0.03),
    ]
    expected = rates(torchs, SequentialLR(torchs, parts, milestones=[30]))
    found = rates(ours, FlatCosineLR(ours, STEPS, flat=0.75, final=0.1))
    assert found == [[pytest.approx(*each, abs=1e-9)] for each in expected]


@pytest.mark.parametrize("args", [{}, {"flat": 0.0}, {"flat": 0.5, "final": 0.2}])
def test_it_is_the_schedule_of_the_pipeline(args):
    optimizer = make_optimizer(0.3, 2.0)
    found = rates(optimizer, FlatCosineLR(optimizer, STEPS, **args), STEPS + 5)
    scales = [factor(step / STEPS, "flat_cosine", **args) for step in range(STEPS + 6)]
    assert found == [[pytest.approx(0.3 * s), pytest.approx(2.0 * s)] for s in scales]


def test_a_stopped_scheduler_goes_on():
    whole = make_optimizer(1.0)
    expected = rates(whole, FlatCosineLR(whole, STEPS))
    first = make_optimizer(1.0)
    scheduler = FlatCosineLR(first, STEPS)
    rates(first, scheduler, 33)
    second = make_optimizer(1.0)
    again = FlatCosineLR(second, STEPS, flat=0.1)
    again.load_state_dict(scheduler.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates(second, again, STEPS - 33) == expected[33:]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"total_steps": 0}, r"FlatCosineLR\(total_steps=0\): must be at least 1"),
        ({"total_steps": 9, "flat": 1.0}, r"FlatCosineLR\(flat=1\.0\): .*\[0, 1\)"),
        ({"total_steps": 9, "final": -0.1}, r"FlatCosineLR\(final=-0\.1\): .*at least 0"),
    ],
)
def test_values_out_of_range_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        FlatCosineLR(make_optimizer(1.0), **args)
