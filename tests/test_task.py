"""What a task calls, how it names what went wrong, and what it leaves alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raysb.errors import ModelError
from raysb.schema import ID, POOL, WEIGHT
from raysb.task import Inputs, Task, inputs, to_tensors


def per_sample(outputs, batch):
    return F.cross_entropy(outputs, batch["label"], reduction="none")


def task(model=lambda: nn.Linear(3, 2), forward=None, loss=per_sample, **args) -> Task:
    return Task(model=model, forward=forward or inputs("x"), loss=loss, **args)


def batch(rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "label": rng.integers(0, 2, rows),
        ID: np.arange(rows),
    }


def test_images_are_scaled_and_normalised_per_channel_as_by_hand() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    seen = Inputs(("image",), mean, std)(nn.Identity(), to_tensors({"image": pixels}))
    expected = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    assert seen.dtype == torch.float32
    assert seen.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(seen.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_grey_images_get_a_channel_and_the_batch_stays_as_it_was() -> None:
    pixels = np.full((2, 8, 8), 51, np.uint8)
    tensors = to_tensors({"image": pixels})
    seen = inputs("image")(nn.Identity(), tensors)
    assert seen.shape == (2, 1, 8, 8)
    torch.testing.assert_close(seen, torch.full((2, 1, 8, 8), 0.2))
    assert (tensors["image"] == 51).all()


def test_columns_that_are_no_images_pass_as_they_are() -> None:
    for column in (torch.zeros(4, 3, dtype=torch.uint8), torch.zeros(4, 2, 2), torch.zeros(4)):
        assert inputs("x")(nn.Identity(), {"x": column}) is column


def test_columns_reach_the_model_in_order_or_by_name() -> None:
    class Minus(nn.Module):
        def forward(self, first, second):
            return first - second

    columns = {"first": torch.ones(2), "second": torch.full((2,), 3.0)}
    assert inputs("second", "first")(Minus(), columns).tolist() == [2.0, 2.0]
    assert inputs("second", "first", by_name=True)(Minus(), columns).tolist() == [-2.0, -2.0]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"columns": ()}, "no column is named"),
        ({"columns": ("x",), "mean": (0.5,)}, "both or neither"),
        ({"columns": ("x",), "mean": (0.5,), "std": (0.0,)}, "above 0"),
    ],
)
def test_inputs_that_cannot_work_are_refused_at_construction(args, told) -> None:
    with pytest.raises(ValueError, match=told):
        Inputs(**args)


def test_the_seed_fixes_the_weights_and_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (task().build(seed).weight for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    assert torch.equal(first, nn.Linear(3, 2).weight)


def test_a_builder_that_builds_no_module_is_named() -> None:
    with pytest.raises(ModelError, match=r"model\(\) returned dict"):
        task(model=dict).build(0)


def test_text_and_ragged_columns_stay_behind_unless_collate_makes_numbers_of_them() -> None:
    ragged = np.empty(2, object)
    ragged[:] = [np.array([1, 2, 3]), np.array([4])]
    given = {"words": ragged, "name": np.array(["a", "b"]), ID: np.arange(2)}
    assert list(task().tensors(given)) == [ID]

    def pad(batch):
        rows = [np.pad(row, (0, 3 - len(row))) for row in batch["words"]]
        return {**batch, "words": np.stack(rows)}

    assert task(collate=pad).tensors(given)["words"].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_a_collate_that_returns_only_its_own_columns_loses_none_of_the_streams() -> None:
    given = batch() | {WEIGHT: np.ones(4, np.float32), POOL: np.zeros(4, np.int64)}
    tensors = task(collate=lambda b: {"x": b["x"] * 2}).tensors(given)
    assert {"x", ID, WEIGHT, POOL} <= tensors.keys()
    np.testing.assert_array_equal(tensors["x"], given["x"] * 2)


def test_read_only_and_strided_columns_become_tensors_with_the_same_values() -> None:
    column = np.arange(12, dtype=np.float32).reshape(4, 3)
    column.setflags(write=False)
    tensors = to_tensors({"a": column, "b": column.T, "c": column[::-1]})
    for name, values in {"a": column, "b": column.T, "c": column[::-1]}.items():
        np.testing.assert_array_equal(tensors[name].numpy(), values)
    tensors["a"].zero_()
    assert column.max() == 11  # the object store's memory is not written to


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (inputs("missing"), "KeyError"),
        (inputs("x", "label"), "TypeError"),
        (lambda model, batch: model(batch["x"][:, :2]), "RuntimeError"),
    ],
)
def test_a_model_that_does_not_accept_the_batch_is_told_with_columns_shapes_and_call(
    forward, told
) -> None:
    t = task(forward=forward)
    with pytest.raises(ModelError, match="does not accept the batch") as caught:
        t.outputs(t.build(0), t.tensors(batch()))
    message = str(caught.value)
    for part in (told, "x float32 [4, 3]", "label int64 [4]", "call tried", "Linear(input"):
        assert part in message


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda o, b: F.cross_entropy(o, b["label"]), r"shape \(\)"),
        (lambda o, b: o, r"shape \(4, 2\)"),
        (lambda o, b: 1.0, "float"),
    ],
)
def test_a_loss_that_is_not_one_per_sample_is_refused_with_what_it_gave(loss, got) -> None:
    t = task(loss=loss)
    tensors = t.tensors(batch())
    outputs = t.outputs(t.build(0), tensors)
    with pytest.raises(ModelError, match=got) as caught:
        t.losses(outputs, tensors)
    assert "(4,)" in str(caught.value)
    with pytest.raises(ModelError, match=got):
        t.training_losses(t.build(0), tensors)


def test_a_step_hook_replaces_the_training_loss_only_and_each_term_is_checked() -> None:
    t = task(step=lambda model, b: {"a": model(b["x"])[:, 0], "b": b["x"].sum(1)})
    model, tensors = t.build(0), t.tensors(batch())
    terms = t.training_losses(model, tensors)
    assert list(terms) == ["a", "b"]
    torch.testing.assert_close(terms["a"], model(tensors["x"])[:, 0])
    torch.testing.assert_close(
        t.losses(t.outputs(model, tensors), tensors), per_sample(model(tensors["x"]), tensors)
    )
    alone = task(step=lambda model, b: model(b["x"])[:, 1])
    assert list(alone.training_losses(model, tensors)) == ["loss"]
    with pytest.raises(ModelError, match=r"shape \(\)"):
        task(step=lambda m, b: {"a": m(b["x"]).mean()}).training_losses(model, tensors)


def test_correctness_comes_from_the_task_else_from_the_loss_else_not_at_all() -> None:
    @dataclass
    class Loss:
        def __call__(self, outputs, batch):
            return per_sample(outputs, batch)

        def correct(self, outputs, batch):
            return outputs.argmax(1) == batch["label"]

    outputs, tensors = torch.eye(2)[[0, 1, 1, 0]], {"label": torch.tensor([0, 0, 1, 1])}
    assert task().correctness(outputs, tensors) is None
    found = task(loss=Loss()).correctness(outputs, tensors)
    assert found.dtype == torch.uint8
    assert found.tolist() == [1, 0, 1, 0]
    own = task(loss=Loss(), correct=lambda o, b: b["label"] == 1)
    assert own.correctness(outputs, tensors).tolist() == [0, 0, 1, 1]
