"""What every selector keeps to."""

import dataclasses
import pickle

import numpy as np
import pytest

from raysb.history.table import LossTable
from raysb.schema import ID, LOSS, PROBABILITY, WEIGHT, WEIGHTS_STEP, Selection
from raysb.seeding import Draws
from raysb.selection import (
    SELECTORS,
    ConfidenceBand,
    HighestK,
    ImportanceSampling,
    LowestK,
    OrderedSGD,
    RandomSubset,
    RankSampling,
    ReducibleLoss,
    SelectiveBackprop,
    Selector,
    StaleSelectiveBackprop,
    Uniform,
    select_pool,
)
from raysb.selection.budgeted import BudgetedSelection
from raysb.selection.distribution import LossDistribution
from raysb.selection.info_batch import InfoBatch
from raysb.selection.keep_fraction import KeepFraction

SELECTORS_UNDER_TEST = [
    Uniform(),
    SelectiveBackprop(),
    SelectiveBackprop(beta=3, history=64),
    SelectiveBackprop(beta=0.5, min_probability=0.2, ties="strict"),
    SelectiveBackprop(warmup_epochs=2),
    SelectiveBackprop(target_fraction=0.2, min_probability=0.05),
    SelectiveBackprop(beta=2, cdf="histogram"),
    HighestK(),
    HighestK(fraction=0.01),
    LowestK(),
    ConfidenceBand(),
    ConfidenceBand(low=0.333, high=0.61, history=64),
    RankSampling(),
    RankSampling(fraction=0.1, pressure=30, decay_epochs=7),
    RankSampling(fraction=0.8, pressure=1000),
    OrderedSGD(),
    OrderedSGD(fraction=0.3, minibatch=7),
    StaleSelectiveBackprop(),
    StaleSelectiveBackprop(beta=2, refresh_every=2, staggered=True, warmup_epochs=1),
    KeepFraction(),
    KeepFraction(fraction=0.1),
    KeepFraction(fraction=0.8, start_epoch=1, end_epoch=9, whole_every=2),
    InfoBatch(),
    BudgetedSelection(rows_per_epoch=9),
    ReducibleLoss(),
    ImportanceSampling(),
    ImportanceSampling(tau_threshold=0.0),
    ImportanceSampling(tau_threshold=0.0, exponent=0.5, presample=2),
    RandomSubset(),
    RandomSubset(fraction=0.07),
]
BY_RANK = [s for s in SELECTORS_UNDER_TEST if getattr(s, "cdf", "exact") == "exact"]  # not by bins
# by the losses themselves, or by what they are beside other losses
BY_VALUE = (ImportanceSampling, ReducibleLoss, InfoBatch, BudgetedSelection)
BY_RANK = [s for s in BY_RANK if not isinstance(s, BY_VALUE)]


@pytest.fixture(params=SELECTORS_UNDER_TEST, ids=repr)
def selector(request: pytest.FixtureRequest) -> Selector:
    return dataclasses.replace(request.param)


def pick(selector: Selector, losses: np.ndarray, draws: Draws | None = None) -> Selection:
    losses = losses.astype(np.float32)
    ids = np.arange(len(losses), dtype=np.int64) * 3 + 1
    return selector.select(ids, losses, LossDistribution(losses), draws or Draws(epoch=3))


def losses(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(size=size).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 2, 500])
def test_selections_are_ascending_rows_with_probabilities_and_weights(selector, size) -> None:
    rows, probability, weight = pick(selector, losses(size))
    again = isinstance(selector, ImportanceSampling)  # which draws with replacement
    assert (np.diff(rows) >= (0 if again else 1)).all()
    assert ((rows >= 0) & (rows < size)).all()
    assert rows.dtype == np.int64
    assert probability.dtype == weight.dtype == np.float32
    assert len(rows) == len(probability) == len(weight)
    assert ((probability > 0) & (probability <= 1)).all()
    assert (weight > 0).all()


@pytest.mark.parametrize("ties", [False, True])
def test_rows_are_selected_as_often_as_their_probability_says(selector, ties) -> None:
    values = np.floor(losses(50) * 2) if ties else losses(50)
    counts, chances = np.zeros(50), np.zeros(50)
    for seed in range(2000):
        rows, probability, _ = pick(selector, values, Draws(seed=seed, epoch=3))
        counts[rows] += 1
        chances[rows] = probability
    deviation = np.sqrt(np.maximum(chances * (1 - chances), 1e-9) / 2000)
    # one count more, for chances of less than one in 2000
    assert (abs(counts / 2000 - chances) <= 4.5 * deviation + 1 / 2000).all()


def test_the_same_draws_give_the_same_picks_and_others_give_others(selector) -> None:
    values = losses(500)
    first = pick(selector, values, Draws(seed=1, epoch=3))
    again = pick(dataclasses.replace(selector), values, Draws(seed=1, epoch=3))
    other = pick(selector, values, Draws(seed=1, epoch=4))
    for ours, theirs in zip(first, again, strict=True):
        assert ours.tolist() == theirs.tolist()
    same = first.indices.tolist() == other.indices.tolist()
    left_to_chance = int((first.probability < 1).sum())
    assert same if left_to_chance == 0 else not same or left_to_chance <= 2


def test_the_same_rows_are_picked_in_any_order_of_the_pool(selector) -> None:
    ids, values = np.arange(300), losses(300)
    order = np.random.default_rng(1).permutation(300)
    distribution = LossDistribution(values)
    straight = selector.select(ids, values, distribution, Draws(epoch=3))
    shuffled = selector.select(ids[order], values[order], distribution, Draws(epoch=3))
    assert sorted(ids[order][shuffled.indices]) == ids[straight.indices].tolist()


@pytest.mark.parametrize(
    "selector",
    BY_RANK,
    ids=repr,
)
def test_an_increasing_map_of_all_losses_changes_no_pick(selector) -> None:
    ids, values = np.arange(300), np.floor(losses(300) * 40)
    for mapped in (values * 8 - 3, values**3):  # exact in float32, so ties stay ties
        picks = [
            selector.select(ids, each, LossDistribution(each), Draws(epoch=3))
            for each in (values, mapped)
        ]
        for ours, theirs in zip(*picks, strict=True):
            assert ours.tolist() == theirs.tolist()


def picks_by_loss(selector: Selector, values: np.ndarray) -> set[int]:
    """Which of the rows of these losses are trained, scored or looked back at."""
    ids, draws = np.arange(len(values)), Draws(epoch=3)
    if selector.preselects:
        table = LossTable()
        table.record_backward(ids, values, 7)
        outlook = selector.outlook(table.records(), 3, 100)
        return set(selector.preselect(ids, outlook, draws).drawn.indices.tolist())
    if isinstance(selector, ReducibleLoss):
        values = values - losses(len(values), 1) * 40  # of the model of the other rows
    return set(selector.select(ids, values, LossDistribution(values), draws).indices.tolist())


@pytest.mark.parametrize(
    "selector",
    [
        ImportanceSampling(tau_threshold=0.0),
        ReducibleLoss(fraction=0.3),
        InfoBatch(),
        BudgetedSelection(rows_per_epoch=90),
    ],
    ids=repr,
)
def test_an_increasing_map_of_all_losses_changes_what_is_picked_by_value(selector) -> None:
    """The law above must fail for what is not by rank: of 300 rows 15 or more change places."""
    assert isinstance(selector, BY_VALUE)
    values = np.floor(losses(300) * 40)
    first, again, mapped = (picks_by_loss(selector, each) for each in (values, values, values**3))
    assert first == again
    assert len(first ^ mapped) >= 15


@pytest.mark.parametrize("selector", [s for s in SELECTORS_UNDER_TEST if s.needs_scores], ids=repr)
@pytest.mark.parametrize("scores", [np.float32([1, np.nan]), np.float32([1]), None], ids=str)
def test_scores_that_do_not_fit_are_refused(selector, scores) -> None:
    with pytest.raises(ValueError, match=f"{type(selector).__name__}.select: 2 ids need as many"):
        selector.select(np.arange(2), scores, LossDistribution(np.ones(1)), Draws(epoch=3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_never_passed(selector, value) -> None:
    pool = {ID: np.arange(200), "x": np.arange(200.0)}
    values = losses(200)
    values[::3] = value
    for epoch in (0, 3):  # in warm-up epochs too
        batch, selected, nonfinite, _ = select_pool(
            selector,
            pool,
            values,
            window=losses(64, 1),
            draws=Draws(epoch=epoch),
            weights_step=7,
        )
        assert nonfinite.tolist() == list(range(0, 200, 3))
        assert not selected[::3].any()
        assert sorted(set(batch[ID].tolist())) == np.flatnonzero(selected).tolist()
        assert batch["x"].tolist() == batch[ID].tolist()
        assert batch[LOSS].tolist() == values[batch[ID].astype(int)].tolist()
        assert set(batch[WEIGHTS_STEP].tolist()) <= {7}
        assert len(batch[PROBABILITY]) == len(batch[WEIGHT]) == len(batch[ID])
        assert isinstance(selector, ImportanceSampling) or len(batch[ID]) == selected.sum()


def test_all_losses_equal_still_selects_rows(selector) -> None:
    rows = pick(selector, np.ones(500)).indices
    assert len(rows) > 0


def test_counts_survive_a_state_round_trip(selector) -> None:
    assert selector.metrics()["kept_fraction"] == 0
    kept = len(pick(selector, losses(300)).indices)
    restored = dataclasses.replace(selector)
    assert restored.metrics()["num_offered"] == 0
    restored.load_state_dict(selector.state_dict())
    kept += len(pick(restored, losses(100, 1)).indices)
    assert restored.metrics() == {
        "num_offered": 400,
        "num_selected": kept,
        "kept_fraction": kept / 400,
    }
    with pytest.raises(ValueError, match=type(selector).__name__):
        restored.load_state_dict({"version": 1})


def test_selectors_pass_between_processes_and_equal_their_copies(selector) -> None:
    copy = pickle.loads(pickle.dumps(selector))
    assert copy == selector
    assert (pick(copy, losses(99)).indices == pick(selector, losses(99)).indices).all()


def test_hyperparameters_are_the_only_fields_and_keywords_only(selector) -> None:
    cls = type(selector)
    assert cls in SELECTORS.values()
    assert all(f.init and f.kw_only for f in dataclasses.fields(cls))
    assert selector.history == 0 or selector.needs_scores


def test_every_kind_is_under_test() -> None:
    assert {type(each) for each in SELECTORS_UNDER_TEST} == set(SELECTORS.values())


def test_who_prefers_rows_with_wrong_labels() -> None:
    """A fifth of the rows have losses as of wrong labels: by how much each selector prefers them.

    The hazard of choosing the hardest rows, and what guards against it.
    """
    draw = np.random.default_rng(0)
    wrong = np.arange(20_000) % 5 == 0
    values = np.where(wrong, draw.normal(3, 0.8, 20_000), draw.exponential(1, 20_000))
    values = values.astype(np.float32)

    # what a model of other rows has: as much of a wrong label, hardly any of a right one
    irreducible = np.where(wrong, values + draw.normal(0, 0.4, 20_000), 0.1).astype(np.float32)

    def share(selector: Selector, values: np.ndarray = values) -> float:
        selector = dataclasses.replace(selector)
        rows = selector.select(np.arange(20_000), values, LossDistribution(values), Draws())
        return float(wrong[rows.indices].mean())

    for selector in (SelectiveBackprop(beta=2), HighestK(), RankSampling(), OrderedSGD()):
        assert share(selector) > 0.3, selector
    assert share(KeepFraction()) > 0.28  # the softer choice
    assert share(ReducibleLoss(), values - irreducible) < 0.01
    assert share(ReducibleLoss(), values) > 0.5  # of losses alone it is `HighestK`
    for selector in (LowestK(), ConfidenceBand(low=0.2, high=0.7)):
        assert share(selector) < 0.05, selector
    for selector in (RandomSubset(), Uniform()):
        assert share(selector) == pytest.approx(0.2, abs=0.01), selector


@pytest.mark.parametrize(
    "selector",
    [SelectiveBackprop(beta=2), HighestK(), RankSampling(), OrderedSGD()],
    ids=repr,
)
def test_the_hardest_hundredth_is_selected_most_often(selector) -> None:
    """Of a port with a percentile grid of 0 to 99, the hardest hundredth was never selected."""
    values = losses(10_000)
    picks = [pick(selector, values, Draws(seed=seed)).indices for seed in range(20)]
    rank = np.argsort(np.argsort(values))
    counts = np.bincount(rank[np.concatenate(picks)] // 100, minlength=100)
    assert counts[-1] == counts.max()
