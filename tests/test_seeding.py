"""Draws: uniform, independent, and a function of their key alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raysb.seeding import Draws, generator, hash_ids, key, mix64

IDS = np.arange(100_000)
GOLDEN = 0x9E3779B97F4A7C15


def test_mix64_is_the_finaliser_of_splitmix64() -> None:
    # the first outputs of the published generator for seed 1234567
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [(1234567 + k * GOLDEN) % 2**64 for k in range(1, 5)]
    assert mix64(np.array(states, np.uint64)).tolist() == outputs


def mix(z: int) -> int:
    """splitmix64's finaliser in Python's own integers."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_draws_stay_the_same_from_release_to_release() -> None:
    """A resumed run must select what the interrupted one would have."""
    state = 0
    words = (-1, 11, 6, *b"select", -1, 3)  # seed, purpose, epoch; lengths tell them apart
    for word in (w % 2**64 for w in words):
        state = mix((state + GOLDEN) % 2**64 ^ word)
    ids = [0, 1, -1, 2**40, 2**63 - 1]
    bits = [mix((i + 1) * GOLDEN % 2**64 ^ mix(state >> 1)) for i in ids]
    draws = Draws(seed=11, epoch=3).uniform(np.array(ids))
    assert draws.tolist() == [(b >> 11) / 2**53 for b in bits]


@pytest.mark.parametrize("ids", [IDS, IDS * 2**40, -IDS, IDS**3 * 97], ids=str)
def test_draws_are_uniform_whatever_the_ids(ids: np.ndarray) -> None:
    ids = np.unique(ids)
    assert stats.kstest(Draws(seed=3, epoch=5).uniform(ids), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [Draws(seed=0, epoch=1), Draws(seed=1, epoch=0), Draws(seed=1, epoch=1), Draws(seed=2**40)],
)
def test_draws_of_other_epochs_and_seeds_are_independent(other: Draws) -> None:
    first, second = Draws().uniform(IDS), other.uniform(IDS)
    table, _, _ = np.histogram2d(first, second, bins=20, range=[[0, 1], [0, 1]])
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_draws_for_other_purposes_are_independent() -> None:
    first, second = Draws().uniform(IDS, "select"), Draws().uniform(IDS, "augment")
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(IDS) ** 0.5


def test_draws_of_neighbouring_ids_are_independent() -> None:
    draws = Draws().uniform(IDS)
    table, _, _ = np.histogram2d(draws[:-1], draws[1:], bins=20, range=[[0, 1], [0, 1]])
    assert stats.chi2_contingency(table).pvalue > 1e-3


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_the_draw_of_an_id_depends_on_neither_order_nor_company(ids, seed, random) -> None:
    draws = Draws(seed=seed, epoch=2)
    alone = {i: draws.uniform(np.array([i], np.int64))[0] for i in ids}
    random.shuffle(ids)
    together = draws.uniform(np.array(ids, np.int64))
    assert together.tolist() == [alone[i] for i in ids]
    assert (together >= 0).all()
    assert (together < 1).all()


def test_hashes_of_distinct_ids_are_distinct() -> None:
    assert len(np.unique(hash_ids(np.arange(-500_000, 500_000)))) == 1_000_000


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, "order", 1), (0, "order", 2), (1, "order", 0)]
    assert len({key(*p) for p in parts}) == len(parts)
    assert all(0 <= key(*p) < 2**63 for p in parts)


def test_a_generator_repeats_for_its_key() -> None:
    assert (
        generator(1, "order", 2).permutation(99) == generator(1, "order", 2).permutation(99)
    ).all()
    assert (
        generator(1, "order", 2).permutation(99) != generator(1, "order", 3).permutation(99)
    ).any()
