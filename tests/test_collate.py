"""Padding: what it makes of ragged rows, and that no loss depends on it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import raysb
from raysb.collate import Pad
from raysb.errors import DataError
from raysb.nn.gpt import GPT
from raysb.schema import take
from raysb.scoring.forward import score
from raysb.task import Task, inputs


def ragged(*rows, dtype=np.int64):
    column = np.empty(len(rows), object)
    column[:] = [np.array(row, dtype) for row in rows]
    return column


def texts(count, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    rows = [rng.integers(1, 30, rng.integers(2, longest)) for _ in range(count)]
    return {"tokens": ragged(*rows), "id": np.arange(count)}


def task(multiple_of=8):
    return Task(
        model=lambda: GPT(1, 30, width=16, depth=2, heads=2),
        forward=inputs("tokens"),
        loss=raysb.losses.sequence_cross_entropy("tokens", ignore_index=0, shift=True),
        collate=raysb.pad("tokens", multiple_of=multiple_of),
    )


@given(
    st.lists(st.lists(st.integers(-5, 5), max_size=20), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_padding_is_that_of_a_loop_over_the_rows(rows, multiple) -> None:
    batch = raysb.pad("x", multiple_of=multiple, value=-7, mask="real")({"x": ragged(*rows)})
    length = max(multiple, -(-max(map(len, rows)) // multiple) * multiple)
    assert batch["x"].tolist() == [row + [-7] * (length - len(row)) for row in rows]
    assert batch["real"].tolist() == [[1] * len(r) + [0] * (length - len(r)) for r in rows]
    assert batch["real"].dtype == np.uint8


def test_columns_get_one_length_and_each_its_own_value_and_type() -> None:
    given = {
        "tokens": ragged([1, 2, 3], [4], dtype=np.uint8),
        "labels": ragged([1], [2, 3, 4, 5, 6]),
        "other": np.zeros(2),
    }
    batch = raysb.pad("tokens", "labels", multiple_of=4, value={"labels": -100})(given)
    assert batch["tokens"].tolist() == [[1, 2, 3, 0, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0]]
    assert batch["labels"][0].tolist() == [1, *[-100] * 7]
    assert (batch["tokens"].dtype, batch["labels"].dtype) == (np.uint8, np.int64)
    assert batch["other"] is given["other"]
    assert given["tokens"].dtype == object  # what was given stays as it was


def test_rows_of_one_length_are_padded_as_well() -> None:
    batch = raysb.pad("x", multiple_of=4)({"x": np.ones((2, 5), np.float32)})
    np.testing.assert_array_equal(batch["x"], np.pad(np.ones((2, 5)), ((0, 0), (0, 3))))
    assert batch["x"].dtype == np.float32


def test_a_model_sees_few_shapes() -> None:
    rows = texts(500, longest=100)
    pad = raysb.pad("tokens", multiple_of=32)
    shapes = {pad(take(rows, slice(i, i + 4)))["tokens"].shape for i in range(0, 500, 4)}
    assert shapes <= {(4, 32), (4, 64), (4, 96), (4, 128)}


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_the_loss_of_a_sequence_does_not_depend_on_its_neighbours_lengths(multiple) -> None:
    rows, t = texts(60), task(multiple)
    model = t.build(0)
    together = score(t, model, rows).losses
    alone = [score(t, model, take(rows, slice(i, i + 1))).losses[0] for i in range(60)]
    np.testing.assert_allclose(together, alone, rtol=2e-6)


def test_scorer_and_worker_give_a_row_the_same_loss_in_batches_of_different_rows() -> None:
    """A scorer takes pools 64 rows at a time, a worker other rows in another order."""
    rows, t = texts(150, seed=1), task()
    model = t.build(0)
    scored = score(t, model, rows).losses
    chosen = np.random.default_rng(2).permutation(150)[:32]
    batch = t.tensors(take(rows, chosen))
    trained = t.training_losses(model.train(), batch)["loss"]
    np.testing.assert_allclose(trained.detach(), scored[chosen], rtol=2e-6)


def test_padding_gets_no_gradient() -> None:
    rows, t = texts(8), task(64)
    model = t.build(0)
    batch = t.tensors(rows)
    logits = t.outputs(model, batch)
    logits.retain_grad()
    t.losses(logits, batch).sum().backward()
    padding = batch["tokens"] == 0
    assert padding.any()
    assert (logits.grad[padding] == 0).all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.zeros((2, 3, 4)), "row 0 is float64 of shape"),
        (np.array(["a", "b"], object), "a list of numbers is needed"),
        (ragged([[1, 2]], [[3]]), "a list of numbers is needed"),
    ],
)
def test_what_cannot_be_padded_is_told_with_its_row(column, message) -> None:
    with pytest.raises(DataError, match=message):
        raysb.pad("x")({"x": column})
    with pytest.raises(DataError, match="no such column; its columns: x"):
        raysb.pad("y")({"x": column})


@pytest.mark.parametrize("value", [-100, 256, 0.5, float("nan")])
def test_a_value_that_the_type_does_not_have_is_refused_instead_of_wrapped(value) -> None:
    with pytest.raises(DataError, match="does not fit into uint8"):
        raysb.pad("x", value=value)({"x": ragged([1], [2, 3], dtype=np.uint8)})


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (dict(columns=()), "name the columns"),
        (dict(columns=("x",), multiple_of=0), r"multiple_of=0\): must be a whole number"),
        (dict(columns=("x",), multiple_of=2.5), "whole number"),
        (dict(columns=("x",), value={"y": 1}), "'y' is none of the columns"),
        (dict(columns=("x",), mask="x"), "choose another name"),
        (dict(columns=("x",), mask="id"), "choose another name"),
    ],
)
def test_arguments_out_of_range_are_refused_at_construction(args, message) -> None:
    with pytest.raises(ValueError, match=message):
        Pad(**args)


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (lambda b: [b], "returned list; a collate takes a dict"),
        (lambda b: {"tokens": np.zeros((3, 4))}, r"'tokens' as \[3, 4\] for 5 rows"),
        (lambda b: {"tokens": torch.zeros(5, 4)}, "a numpy array with one entry per row"),
    ],
)
def test_a_collate_that_loses_the_rows_is_refused(collate, message) -> None:
    bad = Task(model=torch.nn.Identity, forward=inputs("tokens"), loss=None, collate=collate)
    with pytest.raises(raysb.ModelError, match=message):
        bad.tensors(texts(5))
