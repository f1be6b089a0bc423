import math

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    MultiStepLR,
    SequentialLR,
    StepLR,
)

from raysb.training.schedule import Budget, base_lrs, check_schedule, factor, set_lr
from raysb.training.settings import Training

STEPS = 40


def torch_factors(make_scheduler):
    """The factor on the learning rate before each of STEPS + 1 steps, according to torch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer)
    factors = []
    for _ in range(STEPS + 1):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def flat_then_cosine(optimizer, flat, final):
    """Torch's constant rate for some steps, then its cosine to the end."""
    parts = [ConstantLR(optimizer, 1.0), CosineAnnealingLR(optimizer, STEPS - flat, eta_min=final)]
    return SequentialLR(optimizer, parts, milestones=[flat])


def our_factors(kind, **args):
    return [factor(step / STEPS, kind, **args) for step in range(STEPS + 1)]


@pytest.mark.parametrize(
    ("kind", "args", "make_scheduler"),
    [
        ("constant", {}, lambda o: ConstantLR(o, factor=1.0)),
        ("cosine", {}, lambda o: CosineAnnealingLR(o, STEPS)),
        ("cosine", {"final": 0.1}, lambda o: CosineAnnealingLR(o, STEPS, eta_min=0.1)),
        ("flat_cosine", {}, lambda o: flat_then_cosine(o, 30, 0.0)),
        ("flat_cosine", {"flat": 0.5, "final": 0.1}, lambda o: flat_then_cosine(o, 20, 0.1)),
        ("flat_cosine", {"flat": 0.0}, lambda o: CosineAnnealingLR(o, STEPS)),
        ("linear", {}, lambda o: LinearLR(o, 1.0, 0.0, STEPS)),
        ("linear", {"final": 0.25}, lambda o: LinearLR(o, 1.0, 0.25, STEPS)),
        ("linear", {"final": 2.0}, lambda o: LinearLR(o, 0.5, 1.0, STEPS)),
        ("step", {"every": 0.1, "gamma": 0.5}, lambda o: StepLR(o, STEPS // 10, 0.5)),
        ("step", {"every": 0.3, "gamma": 0.2}, lambda o: StepLR(o, 12, 0.2)),
        ("step", {}, lambda o: MultiStepLR(o, [20, 30], 0.1)),
        (
            "step",
            {"milestones": [0.3, 0.6, 0.8], "gamma": 0.2},
            lambda o: MultiStepLR(o, [12, 24, 32], 0.2),
        ),
    ],
)
def test_schedules_equal_those_of_torch(kind, args, make_scheduler):
    expected = torch_factors(make_scheduler)
    scale = 2.0 if args.get("final") == 2.0 else 1.0  # torch's start factor is at most 1
    assert our_factors(kind, **args) == pytest.approx([scale * e for e in expected], abs=1e-9)


def test_warm_up_and_cosine_equal_torchs_in_sequence():
    def sequence(optimizer):
        parts = [LinearLR(optimizer, 1e-12, 1.0, 8), CosineAnnealingLR(optimizer, STEPS - 8)]
        return SequentialLR(optimizer, parts, milestones=[8])

    expected = torch_factors(sequence)
    assert our_factors("cosine", warmup=0.2) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "flat_cosine", "step"])
def test_warm_up_rises_from_zero_to_one_and_does_not_jump(kind):
    args = {"warmup": 0.25}
    assert factor(0.0, kind, **args) == 0.0
    assert factor(0.125, kind, **args) == pytest.approx(0.5)
    assert factor(0.25, kind, **args) == pytest.approx(1.0)
    assert factor(0.25 - 1e-9, kind, **args) == pytest.approx(1.0, abs=1e-6)


def test_milestones_are_shares_of_the_run_with_or_without_warm_up():
    for warmup in (0.0, 0.2):
        before, after = (factor(p, "step", milestones=[0.5], warmup=warmup) for p in (0.4999, 0.5))
        assert (before, after) == (1.0, pytest.approx(0.1))


def test_after_a_warm_up_the_flat_share_is_of_the_rest():
    args = {"warmup": 0.2, "flat": 0.5}
    held, half, end = (factor(p, "flat_cosine", **args) for p in (0.6, 0.8, 1.0))
    assert (held, half, end) == (1.0, pytest.approx(0.5), pytest.approx(0.0))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "flat_cosine", "step"])
def test_progress_outside_the_run_counts_as_its_ends(kind):
    assert factor(-0.5, kind) == factor(0.0, kind) == 1.0
    assert factor(1.5, kind) == factor(1.0, kind)


def test_every_kind_ends_where_it_says():
    assert factor(1.0, "linear", final=0.3) == pytest.approx(0.3)
    assert factor(1.0, "cosine", final=0.3) == pytest.approx(0.3)
    assert factor(1.0, "flat_cosine", final=0.3) == pytest.approx(0.3)
    assert factor(0.5, "cosine") == pytest.approx(0.5)
    assert factor(1.0, "step", gamma=0.1, milestones=[0.5, 1.0]) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("kind", "args", "message"),
    [
        ("cosin", {}, r"train\.schedule='cosin': unknown; did you mean 'cosine'"),
        ("cosine", {"gamma": 0.1}, r"train\.schedule_args\.gamma=0\.1.*final.*warmup"),
        ("step", {"milestone": 0.5}, r"train\.schedule_args\.milestone.*did you mean 'milestones'"),
        ("cosine", {"warmup": 1.0}, r"train\.schedule_args\.warmup=1\.0: .*\[0, 1\)"),
        ("cosine", {"warmup": -0.1}, r"train\.schedule_args\.warmup=-0\.1"),
        ("cosine", {"warmup": "5"}, r"train\.schedule_args\.warmup='5'"),
        ("flat_cosine", {"flat": 1.0}, r"train\.schedule_args\.flat=1\.0: .*\[0, 1\)"),
        ("cosine", {"flat": 0.5}, r"train\.schedule_args\.flat=0\.5.*final.*warmup"),
        ("linear", {"final": -1}, r"train\.schedule_args\.final=-1"),
        ("linear", {"final": math.nan}, r"train\.schedule_args\.final=nan"),
        ("step", {"every": 0.0}, r"train\.schedule_args\.every=0\.0: .*\(0, 1\]"),
        ("step", {"every": 10}, r"train\.schedule_args\.every=10: must be a share"),
        ("step", {"every": 0.1, "milestones": [0.5]}, r"train\.schedule_args\.every.*either"),
        ("step", {"milestones": [30, 60]}, r"train\.schedule_args\.milestones=30: must be a share"),
        ("step", {"milestones": 0.5}, r"train\.schedule_args\.milestones=0\.5: must be a list"),
    ],
)
def test_wrong_schedules_are_refused_with_their_key(kind, args, message):
    with pytest.raises(ValueError, match=message):
        check_schedule(kind, args)
    with pytest.raises(ValueError, match=message):
        Training(schedule=kind, schedule_args=args)


def test_set_lr_scales_every_group_by_its_own_base():
    a, b, c = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    optimizer = torch.optim.Adam(
        [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}, {"params": [c]}],
        lr=torch.tensor(0.4),
        foreach=False,
    )
    base, held = base_lrs(optimizer), optimizer.param_groups[2]["lr"]
    for scale in (0.5, 0.25):
        set_lr(optimizer, base, scale)
    assert base_lrs(optimizer) == pytest.approx([0.025, 0.05, 0.1])
    assert optimizer.param_groups[2]["lr"] is held
    with pytest.raises(ValueError, match="zip"):
        set_lr(optimizer, base[:2], 1.0)


def test_uniform_training_costs_its_epochs():
    budget = Budget(training=Training(), rows_per_epoch=1000)
    assert budget.cost(num_scored=0, num_backpropped=2500) == 2.5


@pytest.mark.parametrize(("price", "cost"), [(1 / 3, 10.0), (0.0, 5.0), (1.0, 20.0)])
def test_selection_costs_its_backward_passes_and_the_price_of_its_scores(price, cost):
    budget = Budget(training=Training(scoring_cost=price), rows_per_epoch=1000)
    assert budget.cost(num_scored=15_000, num_backpropped=5_000) == pytest.approx(cost)


def test_progress_follows_the_axis_that_was_chosen():
    spent = {"epochs": 2.5, "step": 30, "num_scored": 3000, "num_backpropped": 1000}
    shared = {"epochs": 10, "max_steps": 120, "max_cost": 4.0}
    expected = {"epochs": 0.25, "steps": 0.25, "cost": 0.5}
    for axis, progress in expected.items():
        budget = Budget(training=Training(schedule_axis=axis, **shared), rows_per_epoch=1000)
        assert budget.progress(**spent) == pytest.approx(progress)


@pytest.mark.parametrize("axis", ["epochs", "steps", "cost"])
def test_progress_stays_between_start_and_end(axis):
    training = Training(schedule_axis=axis, max_steps=10, max_cost=1.0, epochs=1)
    budget = Budget(training=training, rows_per_epoch=10)
    assert budget.progress(epochs=0, step=0) == 0.0
    assert budget.progress(epochs=9, step=99, num_scored=9999, num_backpropped=9999) == 1.0


def test_the_budget_knows_the_course_of_the_learning_rate():
    training = Training(schedule="step", schedule_args={"gamma": 0.5, "milestones": [0.5]})
    budget = Budget(training=training, rows_per_epoch=10)
    assert [budget.factor(p) for p in (0.0, 0.49, 0.5, 1.0)] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(("axis", "limit"), [("steps", "max_steps"), ("cost", "max_cost")])
def test_an_axis_without_an_end_is_refused_at_construction(axis, limit):
    with pytest.raises(ValueError, match=rf"train\.schedule_axis='{axis}'.*set train\.{limit}"):
        Training(schedule_axis=axis)


def test_an_empty_data_set_has_no_budget():
    with pytest.raises(ValueError, match=r"rows_per_epoch=0"):
        Budget(training=Training(), rows_per_epoch=0)
