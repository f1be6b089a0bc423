"""Exactly k rows of each epoch, by weight, the same for every reader."""

import pickle
from itertools import permutations

import numpy as np
import pytest

from raysb.history.records import LossRecords
from raysb.history.table import LossTable
from raysb.seeding import Draws
from raysb.selection.budgeted import BudgetedSelection
from raysb.selection.reservoir import WeightedReservoir


def recorded(losses: np.ndarray, ids: np.ndarray | None = None) -> LossRecords:
    table = LossTable(capacity=len(losses))
    ids = np.arange(len(losses)) if ids is None else ids
    table.record_selected(ids, 0)
    table.record_backward(ids, losses.astype(np.float32), 7)
    return table.records()


def exponential(size: int) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=size).astype(np.float32)


def trained(selector: BudgetedSelection, known: LossRecords, pools: list, draws: Draws) -> list:
    outlook = selector.outlook(known, draws.epoch, 10)
    return sorted(
        np.concatenate([ids[selector.preselect(ids, outlook, draws).rows] for ids in pools])
    )


@pytest.mark.parametrize("budget", [1, 17, 400, 1000])
def test_exactly_k_rows_of_each_epoch_are_trained_however_it_is_cut(budget) -> None:
    known = recorded(exponential(1000))
    order = np.random.default_rng(1).permutation(1000)
    found = []
    for epoch in (1, 2, 5):
        draws = Draws(epoch=epoch)
        whole = trained(BudgetedSelection(rows_per_epoch=budget), known, [known.id], draws)
        pieces = trained(
            BudgetedSelection(rows_per_epoch=budget), known, np.array_split(order, 13), draws
        )
        assert whole == pieces
        assert len(set(whole)) == budget
        found.append(whole)
    assert (found[0] != found[1]) == (budget < 1000)


def test_rows_are_drawn_one_after_the_other_by_weight() -> None:
    losses, rounds = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), 6000
    weights = 0.8 * losses / 2 + 0.2
    wanted = np.zeros(5)
    for first, second in permutations(range(5), 2):
        chance = weights[first] / weights.sum() * weights[second]
        wanted[[first, second]] += chance / (weights.sum() - weights[first])
    selector, known = BudgetedSelection(rows_per_epoch=2, uniform=0.2), recorded(losses)
    outlook, counts = selector.outlook(known, 1, 10), np.zeros(5)
    for seed in range(rounds):
        counts[selector.preselect(known.id, outlook, Draws(seed=seed, epoch=1)).rows] += 1
    deviation = np.sqrt(wanted * (1 - wanted) / rounds)
    assert (abs(counts / rounds - wanted) < 4.5 * deviation).all()


def test_sums_over_an_epoch_are_estimated_without_bias_by_the_probabilities() -> None:
    values = exponential(80) * np.random.default_rng(2).normal(1, 0.5, 80)
    selector, known = BudgetedSelection(rows_per_epoch=12), recorded(exponential(80))
    outlook, found = selector.outlook(known, 1, 10), []
    for seed in range(4000):
        rows, probability, weight = selector.preselect(known.id, outlook, Draws(seed=seed)).drawn
        found.append((values[rows] / probability).sum())
        assert (weight == 1).all()
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - values.sum()) < 4.5 * error


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_shards_of_the_history_would_draw_the_same(shards) -> None:
    known, draws = recorded(exponential(600)), Draws(seed=3, epoch=2)
    selector = BudgetedSelection(rows_per_epoch=50)
    merged = WeightedReservoir(50, draws)
    weights = selector.weights(known.loss)
    for shard in range(shards):
        part = WeightedReservoir(50, draws)
        part.update(known.id[shard::shards], weights[shard::shards])
        merged.merge(part)
    assert trained(selector, known, [known.id], draws) == sorted(merged.sample().ids.tolist())


def test_the_first_epoch_trains_every_row_and_an_id_without_a_record_is_trained_besides() -> None:
    selector, known = BudgetedSelection(rows_per_epoch=5), recorded(exponential(100))
    everything = np.arange(130)
    assert selector.outlook(known, 0, 10) is None
    assert trained(selector, known, [everything], Draws(epoch=0)) == everything.tolist()
    later = trained(selector, known, [everything], Draws(epoch=1))
    assert len(later) == 35
    assert set(range(100, 130)) <= set(later)


def test_where_there_are_no_more_rows_all_are_trained_with_certainty() -> None:
    selector, known = BudgetedSelection(rows_per_epoch=100), recorded(exponential(100))
    _, probability, _ = selector.preselect(
        known.id, selector.outlook(known, 1, 10), Draws(epoch=1)
    ).drawn
    assert probability.tolist() == [1] * 100


def test_weights_of_all_kinds_of_losses() -> None:
    selector = BudgetedSelection(uniform=0.1)
    losses = np.float32([np.nan, 0, -5, 1, 3, np.inf])
    np.testing.assert_allclose(selector.weights(losses), [1, 0.1, 0.1, 1, 2.8, 1])
    assert selector.weights(np.float32([0, 0, np.nan])).tolist() == [1, 1, 1]
    assert BudgetedSelection(uniform=1).weights(losses).tolist() == [1] * 6


def test_another_history_in_the_same_epoch_draws_anew() -> None:
    """What is kept of an epoch belongs to its outlook, not to its number."""
    selector, draws = BudgetedSelection(rows_per_epoch=20), Draws(epoch=1)
    known, reversed_ = recorded(exponential(200)), recorded(exponential(200)[::-1])
    first = trained(selector, known, [known.id], draws)
    second = trained(selector, reversed_, [known.id], draws)
    assert second == trained(BudgetedSelection(rows_per_epoch=20), reversed_, [known.id], draws)
    assert first != second
    copy = pickle.loads(pickle.dumps(selector))
    assert copy == selector
    assert trained(copy, known, [known.id], draws) == first


@pytest.mark.parametrize(
    ("name", "value"), [("rows_per_epoch", 0), ("uniform", 0.0), ("uniform", 1.5)]
)
def test_values_out_of_range_are_refused_at_construction(name, value) -> None:
    with pytest.raises(ValueError, match=rf"BudgetedSelection\({name}={value!r}\): must be"):
        BudgetedSelection(**{name: value})
