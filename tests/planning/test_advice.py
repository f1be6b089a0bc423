"""Verdict and recommendation: functions of costs and labels alone."""

import pytest

from raysb.planning.advice import (
    DEPENDS,
    FRONTIER,
    LEAST_EASY,
    UNIFORM_FLAGS,
    line,
    recommend,
    verdict,
)
from raysb.planning.costs import UNIFORM, Processors, RowCosts, Work
from raysb.planning.labels import Labels

COSTS = RowCosts(read=0.05, score=0.3, train=1.0)
PAIR = Processors(scorers=1, trainers=1, cores=2)
STALE, SB = "--selector.kind stale_selective_backprop --selector.beta 2", "--selector.beta 2"


def predict(kept: float, costs: RowCosts = COSTS, by: Processors = PAIR):
    return line("sb", [Work(kept=kept)], costs, by, 1000)


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7])
def test_the_verdict_flips_at_the_break_even(score) -> None:
    costs = RowCosts(read=0.2, score=score, train=1.0)
    for kept, pays in ((1 - score - 0.01, True), (1 - score + 0.01, False)):
        found = predict(kept, costs)
        first = verdict(found, costs, PAIR)[0]
        assert found.pays == pays
        assert ("pays per epoch" in first) == pays
        assert ("uniform training is the better choice" in first) == (not pays)


def test_where_scoring_costs_a_training_step_no_fraction_pays() -> None:
    costs = RowCosts(read=0.0, score=1.2, train=1.0)
    found = predict(0.01, costs)
    assert "breaks even at no kept fraction" in verdict(found, costs, PAIR)[0]


def test_scorers_on_cores_that_could_train_are_told_from_those_that_could_not() -> None:
    def second(by: Processors) -> str:
        return verdict(predict(0.4, by=by), COSTS, by)[1]

    shared = second(Processors(scorers=1, trainers=1))
    assert "uniform training on the same processors: that pays" in shared
    crowded = second(Processors(scorers=4, trainers=1))
    assert "uniform training is the better choice there" in crowded
    assert "--engine local" in crowded
    apart = second(Processors(scorers=4, trainers=1, uniform=1))
    assert "uniform training on the 1 that train: that pays" in apart


def test_what_scores_nothing_has_no_scorers_and_trains_on_all_processors() -> None:
    random = line("random", [Work(read=0.5, scored=0.0, kept=0.5)], COSTS, PAIR, 1000)
    assert (random.scorers, random.gain, random.gain_apart) == (0, 2, 2)
    assert random.seconds_apart == random.seconds / 2 == pytest.approx(1000 * 0.525 / 2)
    uniform = line("uniform", [UNIFORM], COSTS, PAIR, 1000)
    assert (uniform.gain, uniform.gain_apart, uniform.pays) == (1, 1, False)
    assert verdict(uniform, COSTS, PAIR) == [
        "Uniform training is what is configured: nothing to pay back."
    ]


def choices(stale: float, sb: float) -> dict:
    return {STALE: predict(stale), SB: predict(sb)}


LEARNED = Labels(finding="right", easy=0.97, unlearned=0.02)


def test_rows_that_are_learned_are_advised_by_cost() -> None:
    assert recommend(choices(0.2, 0.4), LEARNED, COSTS).flags.startswith(STALE)
    found = recommend(choices(0.4, 0.2), LEARNED, COSTS)
    assert found.flags.startswith(f"{SB} --train.scoring_cost 0.30")
    assert found.cheapest is None
    assert "97% of the rows are easy" in found.why
    assert recommend(choices(0.68, 0.9), LEARNED, COSTS).flags == UNIFORM_FLAGS


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (None, "no history"),
        (Labels(finding="unknown"), "does not say"),
        (Labels(finding="right", easy=LEAST_EASY - 0.01), "only 89% of the rows are easy"),
        (Labels(finding="unlearned", easy=0.97, unlearned_classes=(7,)), "of class 7 most rows"),
        (Labels(finding="unlearned", unlearned=0.55, easy=0.22), "55% of the rows are still"),
    ],
)
def test_a_cheap_epoch_is_named_but_not_advised_until_a_history_says_the_rows_are_learned(
    labels, why
) -> None:
    """CIFAR-10 after an epoch and a half is the last case."""
    found = recommend(choices(0.4, 0.2), labels, COSTS)
    assert found.flags == UNIFORM_FLAGS
    assert why in found.why
    assert found.cheapest == f"{SB} --train.scoring_cost 0.30"
    assert found.cheapest_takes == pytest.approx((0.05 + 0.3 + 0.2) / 1.05)
    dear = recommend(choices(0.68, 0.9), labels, COSTS)
    assert (dear.flags, dear.cheapest) == (UNIFORM_FLAGS, None)


def test_at_least_so_many_easy_rows_are_enough() -> None:
    found = recommend(choices(0.4, 0.2), Labels(finding="right", easy=LEAST_EASY), COSTS)
    assert found.flags.startswith(SB)


def test_a_configuration_that_does_not_pay_on_ray_is_advised_in_one_process() -> None:
    slow = Processors(scorers=1, trainers=3, cores=4)
    costs = RowCosts(read=0.05, score=0.3, train=1e-5)
    assert predict(0.2, by=slow).gain_apart < 1
    found = recommend({SB: predict(0.2, by=slow)}, LEARNED, COSTS)
    assert found.flags.endswith("--engine local")
    assert predict(0.2, costs).gain < 1


def test_wrong_labels_are_never_advised_to_prefer_high_losses() -> None:
    found = recommend(choices(0.1, 0.1), Labels(finding="wrong", share=0.2), COSTS)
    assert found.flags == "--selector.kind uniform"
    beta, band, reducible = found.others
    assert beta.startswith("--selector.beta 0.5 ")
    assert "confidence_band --selector.low 0 --selector.high 0.80 --adjust.class_floor 0.5 " in band
    assert "reducible_loss" in reducible
    assert "20%" in found.why


def test_rows_that_are_not_learned_are_no_reason_to_prefer_them() -> None:
    found = recommend(choices(0.1, 0.1), Labels(finding="unlearned", unlearned=0.4), COSTS)
    assert (found.flags, found.others) == ("--selector.kind uniform", ())


def test_a_gain_per_epoch_is_said_not_to_be_a_gain_in_error() -> None:
    assert "not a gain in error" in FRONTIER
    assert "pipelines/benchmarks/frontier.py" in FRONTIER
    assert "what it teaches is not" in DEPENDS
