"""Closed forms of what is read, scored and kept, against the selectors themselves."""

import numpy as np
import pytest

from raysb.history.table import LossTable
from raysb.planning.costs import UNIFORM, Work, mean_work
from raysb.planning.workloads import named, works_of
from raysb.seeding import Draws
from raysb.selection import (
    SELECTORS,
    LossDistribution,
    OrderedSGD,
    SelectiveBackprop,
    StaleSelectiveBackprop,
)
from raysb.selection.importance_sampling import ImportanceSampling
from raysb.selection.info_batch import InfoBatch
from raysb.selection.keep_fraction import KeepFraction

N, POOL, EPOCHS = 8192, 512, 7
RARELY = {"reducible_loss": {"fraction": 0.25}, "budgeted_selection": {"rows_per_epoch": 3000}}


def realised(selector, epoch: int, epochs: int) -> Work:
    """Shares of an epoch of exponential losses, of which every row has one already."""
    rng = np.random.default_rng(epoch)
    losses = rng.exponential(size=N).astype(np.float32)
    table, ids = LossTable(N), np.arange(N)
    if epoch:
        for e in range(epoch):
            table.record(
                ids, losses, correct=None, selected=np.ones(N, bool), weights_step=e, epoch=e
            )
    draws = Draws(seed=0, epoch=epoch)
    outlook = selector.outlook(table.records(), epoch, epochs) if selector.looks_back else None
    read = scored = kept = 0
    for start in range(0, N, POOL):
        mine, to_score, drawn = ids[start : start + POOL], np.arange(POOL), 0
        if selector.preselects:
            wanted = selector.preselect(mine, outlook, draws)
            read += len(wanted.rows)
            to_score, drawn = wanted.score, len(wanted.drawn.indices)
        else:
            read += POOL
        if selector.needs_scores and len(to_score):
            ranked = losses[mine[to_score]]
            seen = LossDistribution(np.concatenate([losses[-1024:], ranked]))
            chosen = selector.select(mine[to_score], ranked, seen, draws)
            drawn += len(chosen.indices)
            scored += len(to_score)
        elif not selector.needs_scores and not selector.preselects:
            drawn += POOL
        kept += drawn
    return Work(read=read / N, scored=scored / N, kept=kept / N)


@pytest.mark.parametrize("kind", SELECTORS)
def test_the_closed_form_is_what_the_selector_does(kind) -> None:
    selector = SELECTORS[kind](**RARELY.get(kind, {}))
    if isinstance(selector, ImportanceSampling):
        selector = ImportanceSampling(tau_threshold=0.0)  # exponential scores: tau is about 1.4
    # 8,192 draws: a standard deviation of at most .0055
    for epoch, work in enumerate(works_of(selector, EPOCHS, N)):
        found = realised(selector, epoch, EPOCHS)
        assert found.read == pytest.approx(work.read, abs=0.02), epoch
        assert found.scored == pytest.approx(work.scored, abs=0.02), epoch
        assert found.kept == pytest.approx(work.kept, abs=0.02), epoch


def test_stale_scores_an_nth_either_way_and_reads_only_what_it_trains_between() -> None:
    together = works_of(StaleSelectiveBackprop(beta=2.0, refresh_every=3), 9, 100)
    assert [work.scored for work in together] == [1, 0, 0] * 3
    assert together[1].read == together[1].kept == pytest.approx(1 / 3)
    assert mean_work(together).scored == pytest.approx(1 / 3)
    staggered = works_of(StaleSelectiveBackprop(beta=2.0, staggered=True), 9, 100)
    assert [work.scored for work in staggered] == pytest.approx([1] + [1 / 3] * 8)
    assert staggered[1].read == pytest.approx(1 / 3 + 2 / 3 * 1 / 3)
    warm = works_of(StaleSelectiveBackprop(warmup_epochs=2), 5, 100)
    assert [work.kept for work in warm] == [1, 1, 0.5, 0.5, 0.5]
    assert [work.scored for work in warm] == [1, 1, 0, 0, 1]


def test_schedules_are_followed_epoch_by_epoch() -> None:
    kept = [w.kept for w in works_of(KeepFraction(fraction=0.25, start_epoch=1, end_epoch=3), 4, 9)]
    assert kept == [1, 0.25, 0.25, 1]
    assert works_of(InfoBatch(anneal=0.25), 4, 9)[::3] == [UNIFORM, UNIFORM]
    assert [w.kept for w in works_of(SelectiveBackprop(beta=3.0), 2, 9)] == [0.25, 0.25]


def test_a_share_that_follows_accuracy_is_taken_as_all_rows_which_it_is_at_first() -> None:
    selector = OrderedSGD(fraction="auto")
    assert works_of(selector, 2, 9) == [Work(kept=1.0)] * 2
    assert works_of(OrderedSGD(fraction=0.25), 1, 9) == [Work(kept=0.25)]
    assert named("ordered", selector) == "ordered f auto"


def test_importance_sampling_that_never_starts_only_probes() -> None:
    assert works_of(ImportanceSampling(tau_threshold=1e9), 1, 9) == [Work(scored=1 / 8, kept=1.0)]


def test_a_selector_of_ones_own_is_asked_what_it_keeps() -> None:
    class Tenth(SELECTORS["lowest_k"].__base__.__base__):  # a Selector without a closed form
        needs_scores = True

        def select(self, ids, scores, distribution, draws):
            rows = np.flatnonzero(distribution.cdf(scores) > 0.9)
            return self._selected(ids, rows, np.ones(len(rows)))

    assert works_of(Tenth(), 1, 9)[0].kept == pytest.approx(0.1, abs=0.001)


def test_names_say_what_decides_the_kept_fraction() -> None:
    assert named("sb", SelectiveBackprop(beta=2.0)) == "sb beta 2"
    assert named("sb", SelectiveBackprop(target_fraction=0.3)) == "sb target 0.3"
    assert named("stale", StaleSelectiveBackprop(refresh_every=5)) == "stale beta 1 n 5"
    assert named("stale", StaleSelectiveBackprop()) == "stale beta 1"
