"""Rows that are trained unscored keep their place, their weight and the age of what is known."""

import numpy as np

from raysb.schema import (
    ID,
    LOSS,
    NUM_SCORED,
    POOL,
    PROBABILITY,
    WEIGHT,
    WEIGHTS_STEP,
    Selection,
)
from raysb.seeding import Draws
from raysb.selection import ImportanceSampling, StaleSelectiveBackprop
from raysb.selection.preselection import Preselection
from raysb.selection.unscored import put_together, set_apart

NO_LOSSES = np.empty(0, np.float32)


def pool(count=8):
    return {ID: np.arange(count) + 50, POOL: np.full(count, 3), "x": np.arange(count) * 1.0}


def test_drawn_and_scored_rows_come_in_the_order_of_the_pool_with_what_is_known_of_each():
    wanted = Preselection(
        score=np.array([1, 4, 6]),
        drawn=Selection(
            np.array([0, 3, 5]), np.array([0.5, 0.25, 1], np.float32), np.float32([2, 4, 1])
        ),
        loss=np.array([9, 8, 7], np.float32),
        weights_step=np.array([11, 12, 13]),
    )
    assert wanted.rows.tolist() == [0, 1, 3, 4, 5, 6]
    read = {name: column[wanted.rows] for name, column in pool().items()}
    apart = set_apart(
        read | wanted.columns(scored=True),
        StaleSelectiveBackprop(),
        window=NO_LOSSES,
        draws=Draws(),
        weights_step=40,
    )
    assert apart.fresh[ID].tolist() == [51, 54, 56]
    assert apart.drawn_ids.tolist() == [50, 53, 55]
    chosen = {name: column[[0, 2]] for name, column in apart.fresh.items()} | {
        LOSS: np.float32([1, 2]),
        WEIGHTS_STEP: np.array([40, 40]),
        PROBABILITY: np.float32([0.9, 0.8]),
        WEIGHT: np.float32([1, 1]),
        "correct": np.uint8([1, 0]),
    }
    block = put_together(apart, chosen, np.array([0, 2]), 77)
    assert block[ID].tolist() == [50, 51, 53, 55, 56]
    assert block["x"].tolist() == [0, 1, 3, 5, 6]
    assert block[LOSS].tolist() == [9, 1, 8, 7, 2]
    assert block[WEIGHTS_STEP].tolist() == [11, 40, 12, 13, 40]
    assert block[WEIGHT].tolist() == [2, 1, 4, 1, 1]
    assert np.allclose(block[PROBABILITY], [0.5, 0.9, 0.25, 1, 0.8])
    assert set(block[NUM_SCORED].tolist()) == {77}
    assert "correct" not in block


def test_rows_left_out_just_before_scoring_are_as_young_as_the_scored_ones():
    selector = ImportanceSampling()
    asked = selector.to_score(pool(128)[ID], NO_LOSSES, Draws())
    apart = set_apart(pool(128), selector, window=NO_LOSSES, draws=Draws(), weights_step=40)
    assert asked is not None
    assert apart.positions.tolist() == asked.tolist()
    left_out = np.setdiff1d(np.arange(128), asked)
    assert (apart.drawn_ids - 50).tolist() == left_out.tolist()
    assert set(apart.drawn[WEIGHTS_STEP].tolist()) == {40}
    assert set(apart.drawn[PROBABILITY].tolist()) == set(apart.drawn[WEIGHT].tolist()) == {1.0}
    assert np.isnan(apart.drawn[LOSS]).all()


def test_a_row_that_was_drawn_twice_comes_twice():
    apart = set_apart(
        pool(4), StaleSelectiveBackprop(), window=NO_LOSSES, draws=Draws(), weights_step=0
    )
    twice = {name: column[[1, 1, 3]] for name, column in apart.fresh.items()}
    block = put_together(apart, twice, np.array([1, 1, 3]), 4)
    assert block[ID].tolist() == [51, 51, 53]
