"""Weights that do not fit are refused by name, without a row of data."""

import copy
import os

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from raysb.errors import ModelError, RunDirectoryError
from raysb.nn.lora import add_lora
from raysb.nn.registry import MODELS, build_model
from raysb.nn.settings import Model
from raysb.scan.weights import build_with, check_names, find_weights


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "norm"),
    [*((name, "group") for name in sorted(MODELS)), ("cnn", "batch"), ("mlp", "none")],
)
def test_weights_of_a_model_of_any_size_have_its_names(tmp_path, name, norm) -> None:
    settings = Model(name=name, norm=norm, num_classes=7)
    model = build_model(settings, image_shape=(16, 16, 1), num_features=256)
    save_model(model, str(tmp_path / "w.safetensors"))
    check_names(settings, tmp_path / "w.safetensors")
    check_names(Model(name=name, norm=norm), tmp_path / "w.safetensors")


def test_missing_and_left_over_names_are_told(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    model = build_model(Model(name="mlp", num_classes=3), num_features=4)
    state = {k: v for k, v in model.state_dict().items() if k != "head.bias"}
    save_file({**state, "tail.bias": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"missing head\.bias; not in the model tail\.bias; "):
        check_names(Model(name="mlp"), path)
    with pytest.raises(ModelError, match="and 5 more"):
        check_names(Model(name="cnn"), path)


def test_a_tied_weight_is_there_once(tmp_path, monkeypatch) -> None:
    (tmp_path / "tied_weights.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))\n"
        "    net[1].weight = net[0].weight\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = Model(name="tied_weights:build")
    save_model(build_model(settings), str(tmp_path / "w.safetensors"))
    check_names(settings, tmp_path / "w.safetensors")


def test_what_is_no_safetensors_file_is_said_so(tmp_path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="is no safetensors file"):
        check_names(Model(), tmp_path / "model.pt")


def test_a_run_gives_its_final_weights_else_those_of_its_last_checkpoint(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_weights(tmp_path / "run")
    for step in (1, 2):
        folder = tmp_path / "run" / f"checkpoint_{step}"
        folder.mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="no checkpoint"):
        find_weights(tmp_path / "run")
    (folder / "model.safetensors").touch()
    assert find_weights(tmp_path / "run") == (folder / "model.safetensors", None)
    final, config = tmp_path / "run" / "model.safetensors", tmp_path / "run" / "config.toml"
    final.touch()
    config.touch()
    assert find_weights(tmp_path / "run") == (final, config)
    assert find_weights(final) == (final, None)


def test_a_state_dict_must_fit_too() -> None:
    other = nn.Linear(3, 2)
    model = build_with(lambda: nn.Linear(3, 2), other.state_dict())
    assert torch.equal(model.weight, other.weight)
    with pytest.raises(ModelError, match="do not fit Linear"):
        build_with(lambda: nn.Linear(3, 2), nn.Linear(4, 2).state_dict())


def test_of_several_checkpoints_the_newest_counts(tmp_path) -> None:
    for age, step in enumerate((300, 200, 100)):
        file = tmp_path / "run" / f"checkpoint_{step:09d}" / "model.safetensors"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    newest = tmp_path / "run" / "checkpoint_000000300" / "model.safetensors"
    assert find_weights(tmp_path / "run") == (newest, None)


@pytest.mark.parametrize("kind", ["file", "state dict"])
def test_whole_weights_fit_a_builder_that_adapts(tmp_path, kind) -> None:
    """A run exports the module with its adapters merged: the builder has names that no file has."""

    def adapted() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        add_lora(model, rank=1)
        return model

    trained = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    save_model(trained, str(tmp_path / "w.safetensors"))
    weights = tmp_path / "w.safetensors" if kind == "file" else copy.copy(trained.state_dict())
    model = build_with(adapted, weights)
    x = torch.randn(5, 3)
    assert torch.equal(model(x), trained(x))
    assert model.state_dict().keys() == trained.state_dict().keys()
