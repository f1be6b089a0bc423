"""ReducibleLoss is a brute-force top k of loss minus irreducible loss, which is found by id."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raysb.schema import ID
from raysb.scoring.forward import score
from raysb.scoring.registry import SCORES
from raysb.seeding import Draws
from raysb.selection.reducible_loss import ReducibleLoss
from raysb.source.irreducible import IrreducibleLosses
from raysb.task import Task, inputs


def pool(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10_000)[:rows].astype(np.int64)
    return {ID: ids, "x": rng.exponential(size=rows).astype(np.float32)}


def chosen(rows: dict[str, np.ndarray], known: IrreducibleLosses, fraction: float) -> list[int]:
    """Ids that the stream would choose: the column added, the score, the selector."""
    task = Task(model=nn.Identity, forward=inputs("x"), loss=lambda outputs, batch: outputs)
    by = SCORES[ReducibleLoss.score]
    scores = score(task, nn.Identity(), known.add_to(rows), by=by).scores
    picks = ReducibleLoss(fraction=fraction).select(rows[ID], scores, None, Draws(epoch=1))
    assert (picks.weight == 1).all()
    return sorted(rows[ID][picks.indices].tolist())


@given(st.integers(1, 200), st.floats(0.01, 1), st.integers(0, 10**6))
def test_it_is_the_top_k_of_a_sort_by_id_in_any_order_of_rows_and_of_the_file(
    rows, fraction, seed
) -> None:
    batch, rng = pool(rows, seed), np.random.default_rng(seed + 1)
    table = {int(i): np.float32(rng.exponential()) for i in rng.permutation(10_000)}
    known = IrreducibleLosses.of(np.array(list(table)), np.array(list(table.values()), np.float32))
    by_hand = {int(i): x - table[int(i)] for i, x in zip(batch[ID], batch["x"], strict=True)}
    count = max(round(fraction * rows), 1)
    wanted = sorted(sorted(by_hand, key=by_hand.__getitem__, reverse=True)[:count])
    assert chosen(batch, known, fraction) == wanted
    order = rng.permutation(rows)
    assert chosen({name: c[order] for name, c in batch.items()}, known, fraction) == wanted


def test_a_row_with_a_wrong_label_is_passed_over_where_both_models_find_it_hard() -> None:
    """Losses 9, 3, .1 with irreducible 8.9, .5, .1: worth learning is the second alone."""
    known = IrreducibleLosses.of(np.array([2, 0, 1]), np.float32([0.1, 8.9, 0.5]))
    batch = {ID: np.arange(3), "x": np.float32([9, 3, 0.1])}
    assert chosen(batch, known, 0.1) == [1]


def test_ties_are_decided_by_lot_and_stay_with_the_ids() -> None:
    batch = {ID: np.arange(40), "x": np.ones(40, np.float32)}
    known = IrreducibleLosses.of(np.arange(40), np.zeros(40, np.float32))
    first = chosen(batch, known, 0.25)
    assert len(first) == 10
    assert first != list(range(10))
    assert chosen({name: column[::-1] for name, column in batch.items()}, known, 0.25) == first


def test_its_share_is_that_of_the_source_and_the_only_setting() -> None:
    assert ReducibleLoss() == ReducibleLoss(fraction=0.1)
    assert [field.name for field in dataclasses.fields(ReducibleLoss)] == ["fraction"]
    with pytest.raises(ValueError, match=r"ReducibleLoss\(fraction=0\): must be a number above 0"):
        ReducibleLoss(fraction=0)
