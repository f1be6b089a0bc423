"""The features of the last layer, taken by listening to it."""

import numpy as np
import pytest
import torch
from torch import nn

import raysb
from raysb.errors import ModelError
from raysb.nn.cnn import ConvNet
from raysb.report.tsne.features import LastLayerInput, look_at
from raysb.task import Task


def test_features_are_what_the_last_linear_layer_is_given() -> None:
    model = ConvNet(1, 10)
    images = torch.randn(7, 1, 28, 28)
    with LastLayerInput(model) as features:
        model(images)
        found = features.take()
    expected = model.stages(images).mean((2, 3))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.head(found), model(images))
    assert not found.requires_grad


def test_the_last_one_to_run_counts_not_the_last_one_that_was_made() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 2)
            self.body = nn.Linear(3, 5)

        def forward(self, x):
            return self.head(self.body(x))

    model = Model()
    with LastLayerInput(model) as features:
        model(torch.randn(4, 3))
        assert features.take().shape == (4, 5)


def test_dimensions_between_are_averaged_over() -> None:
    model, tokens = nn.Linear(3, 2), torch.randn(4, 6, 3)
    with LastLayerInput(model) as features:
        model(tokens)
        torch.testing.assert_close(features.take(), tokens.mean(1))


def test_nothing_is_left_in_the_model_and_features_are_taken_once() -> None:
    model = nn.Linear(3, 2)
    with LastLayerInput(model) as features:
        model(torch.zeros(1, 3))
        features.take()
        with pytest.raises(ModelError, match=r"no torch\.nn\.Linear ran"):
            features.take()
    assert not model._forward_pre_hooks


def test_a_model_without_linear_layers_is_told() -> None:
    task = Task(model=lambda: nn.Flatten(), forward=raysb.inputs("x"), loss=lambda o, b: o.sum(1))
    with pytest.raises(ModelError, match=r"Flatten: no torch\.nn\.Linear ran"):
        look_at(task, nn.Flatten(), {"x": np.zeros((3, 2), np.float32)})


def test_looking_gives_loss_and_prediction_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3))
    task = Task(
        model=lambda: model, forward=raysb.inputs("x"), loss=raysb.losses.cross_entropy("label")
    )
    rng = np.random.default_rng(0)
    rows = {"x": rng.normal(size=(150, 4)).astype(np.float32), "label": rng.integers(0, 3, 150)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, modes = torch.get_rng_state(), [each.training for each in model.modules()]
    found = look_at(task, model, rows, target="label")
    assert torch.equal(torch.get_rng_state(), state)
    assert [each.training for each in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.eval()
        hidden = model[:3](torch.from_numpy(rows["x"]))
        logits = model[3](hidden)
        expected = nn.functional.cross_entropy(
            logits, torch.from_numpy(rows["label"]), reduction="none"
        )
    np.testing.assert_allclose(found["features"], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    assert (found["prediction"] == logits.argmax(1).numpy()).all()
