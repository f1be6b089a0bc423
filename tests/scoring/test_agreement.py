"""Agreement of two rankings, and what follows from it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from raysb.history.ring import LossRing
from raysb.scoring.agreement import AUDIT_EVERY, FEW, Audits, RankAgreement, audit_every
from raysb.scoring.cursor import Cursor
from raysb.scoring.ledger import Ledger
from raysb.scoring.limits import Limits
from raysb.scoring.records import PoolRecord

few_values = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n)] * 2)
)


def floats(values) -> np.ndarray:
    return np.array(values, np.float32)


@settings(deadline=None)
@given(few_values)
def test_it_is_spearmans_rank_correlation_ties_among_them(pair) -> None:
    one, two = map(floats, pair)
    found = RankAgreement.of(one, two)
    if len(set(pair[0])) == 1 or len(set(pair[1])) == 1:
        assert found is None
    else:
        assert found.spearman == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)


def test_of_many_rows_it_is_scipys() -> None:
    rng = np.random.default_rng(0)
    one = rng.exponential(size=5000).astype(np.float32)
    two = (one + rng.normal(size=5000) / 2).astype(np.float32)
    found = RankAgreement.of(one, two)
    assert found.spearman == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)
    third = -(-5000 // 3)
    both = {*np.argsort(one)[-third:].tolist()} & {*np.argsort(two)[-third:].tolist()}
    assert found.overlap == len(both) / third


def test_the_overlap_is_the_share_of_the_k_highest_that_both_have() -> None:
    one, two = floats([9, 8, 7, 1, 2, 3]), floats([9, 1, 8, 7, 2, 3])
    assert [RankAgreement.of(one, two, k).overlap for k in (1, 2, 3, 6, 99)] == [
        *(1.0, 0.5, 2 / 3, 1.0, 1.0)
    ]
    assert RankAgreement.of(one, two).overlap == 0.5  # of a third, two rows
    tied = floats([1, 1, 1, 0])
    assert RankAgreement.of(tied, tied, 2).overlap == 1


def test_rows_that_are_not_finite_in_either_are_left_out() -> None:
    one, two = floats([1, 2, np.nan, 3, 9]), floats([1, 3, 7, 2, np.inf])
    assert RankAgreement.of(one, two) == RankAgreement.of(one[[0, 1, 3]], two[[0, 1, 3]])


@pytest.mark.parametrize("rows", [0, 1])
def test_without_two_rows_there_is_no_ranking(rows) -> None:
    assert RankAgreement.of(floats([1.0] * rows), floats([2.0] * rows)) is None


@pytest.mark.parametrize(("shapes", "k"), [((3, 4), None), ((3, 3), 0)])
def test_other_vectors_are_refused(shapes, k) -> None:
    with pytest.raises(ValueError, match=r"RankAgreement.of\(.*one length"):
        RankAgreement.of(*map(np.zeros, shapes), k)


@pytest.mark.parametrize(
    ("rows", "pool_rows", "expected"),
    [(60_000, 256, 50), (12_800, 256, 50), (12_544, 256, 49), (1_442, 256, 6), (10, 256, 1)],
)
def test_few_rows_are_audited_once_an_epoch(rows, pool_rows, expected) -> None:
    assert audit_every(rows, pool_rows) == expected


def audits(*values, least=0.8) -> Audits:
    """Fed with one audit after the other, from pool 50 on."""
    made = Audits(least)
    for number, value in enumerate(values, 1):
        made.add(AUDIT_EVERY * number, value and RankAgreement(value, value))
    return made


@pytest.mark.parametrize(
    ("values", "falls"),
    [
        ((0.1, 0.1), False),  # too few to tell
        ((0.9, 0.9, 0.5), True),
        ((0.9, 0.9, 0.61), False),
        ((0.1, 1.0, 1.0, 1.0), True),  # at the third
        ((1.0, 1.0, 1.0, 0.9, 0.8, 0.6), True),
        ((0.7, None, 0.7, None), False),
        ((0.7, None, 0.7, None, 0.7), True),
    ],
)
def test_it_falls_back_when_the_mean_of_the_last_three_is_below_the_bound(values, falls) -> None:
    assert audits(*values).fallen_back is falls


@pytest.mark.parametrize(("spearman", "overlap", "falls"), [(0.9, 0.1, False), (0.7, 0.99, True)])
def test_the_rank_correlation_decides_and_not_the_overlap(spearman, overlap, falls) -> None:
    made = Audits(0.8)
    for pool in (50, 100, 150):
        made.add(pool, RankAgreement(spearman, overlap))
    assert made.fallen_back is falls


def test_a_bound_of_minus_one_only_reports() -> None:
    made = audits(-1.0, -1.0, -1.0, least=-1.0)
    assert made.metrics() == {"agreement": -1.0, "overlap": -1.0, "fallback": 0.0}


def test_the_first_pool_of_a_run_is_reported_and_decides_nothing() -> None:
    made = Audits(0.8)
    assert made.metrics() == {}
    assert not made.add(0, RankAgreement(0.0, 0.3))
    assert made.metrics() == {"agreement": 0.0, "overlap": 0.3, "fallback": 0.0}
    assert not made.add(50, RankAgreement(0.9, 0.9))
    assert not made.add(100, RankAgreement(0.9, 0.9))
    assert not made.add(150, RankAgreement(0.9, 0.9))
    assert made.metrics()["agreement"] == pytest.approx(0.9)


@settings(deadline=None)
@given(st.permutations(list(range(1, 8))), st.integers(0, 6))
def test_the_means_are_those_of_the_last_pools_whatever_the_order(order, again) -> None:
    made = Audits(-1.0)
    for number in [*order, order[again]]:  # one pool is scored again
        made.add(number, RankAgreement(number / 10, 0.0))
    last = sorted(order)[-FEW:]
    assert made.metrics()["agreement"] == pytest.approx(sum(last) / 10 / FEW)


@pytest.mark.parametrize("values", [(), (0.9,), (0.9, 0.7), (0.9, 0.1, 0.1)])
def test_a_state_goes_on_as_if_nothing_had_happened(values) -> None:
    one, two = audits(*values), Audits(0.8)
    two.load_state_dict(one.state_dict())
    for made in (one, two):
        made.add(950, RankAgreement(0.75, 0.75))
    assert (one.fallen_back, one.metrics()) == (two.fallen_back, two.metrics())


def ledger(generation_of=None) -> Ledger:
    return Ledger(ring=LossRing(100), rows_per_epoch=10_000, audits=Audits(0.8))


def opened(made: Ledger, **args) -> int:
    return made.open(Limits(global_batch=1, max_rows=None, window=None), Cursor(), 999, 0, **args)


def tell(made: Ledger, generation: int, pool: int, agreement=None, fallen_back=False) -> None:
    """A pool of 10 rows whose losses are its number."""
    told = agreement and RankAgreement(agreement, agreement)
    losses, nothing = np.full(10, pool, np.float32), np.empty(0, np.int64)
    args = {"fallen_back": fallen_back, "agreement": told}
    made.scored(generation, PoolRecord(pool, 0, 10, 0, losses, None, nothing, 0.0, **args))


def fallen() -> tuple[Ledger, int]:
    """After three audits of .7; pool 151 was granted before the third."""
    made = ledger()
    generation = opened(made)
    for pool in (50, 100):
        tell(made, generation, pool, 0.7)
    assert not made.grant(generation, 151, 10).fallen_back
    assert len(made.grant(generation, 151, 10).window) == 20
    tell(made, generation, 150, 0.7)
    return made, generation


def test_after_the_fallback_every_grant_says_so_and_the_window_begins_anew() -> None:
    made, generation = fallen()
    grant = made.grant(generation, 152, 10)
    assert grant.fallen_back
    assert len(grant.window) == 0
    tell(made, generation, 152, fallen_back=True)
    assert made.grant(generation, 153, 10).window.tolist() == [152.0] * 10


def test_a_cheap_score_that_comes_late_stays_out_of_the_window() -> None:
    made, generation = fallen()
    tell(made, generation, 151)
    assert len(made.grant(generation, 152, 10).window) == 0
    assert made.totals.epochs[0].num_scored == 40  # and is counted


def test_a_resumed_ledger_has_fallen_back_too() -> None:
    made, generation = fallen()
    tell(made, generation, 152, fallen_back=True)
    again = ledger()
    generation = opened(again, state=made.state_dict())
    grant = again.grant(generation, 160, 10)
    assert grant.fallen_back
    assert grant.window.tolist() == [152.0] * 10
    assert again.progress()["audits"] == made.progress()["audits"]


def test_a_state_from_before_there_were_audits_is_taken() -> None:
    state = ledger().state_dict()
    del state["audits"]
    opened(made := ledger(), state=state)
    assert made.progress()["audits"] == {}
