"""A trained model comes back as it was trained, and never by a name that lies in a file."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from raysb import cli
from raysb.config import load
from raysb.errors import ModelError, RunDirectoryError
from raysb.evaluate import evaluate_run
from raysb.models import load_model
from raysb.nn.convert import convert_norm
from raysb.run import train
from raysb.source.demo import digits

CODE = """
import pathlib
from torch import nn
pathlib.Path("imported").touch()
def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def normed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10))
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "some_users_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run(*flags):
    always = [
        "--engine",
        "local",
        "--train.use_gpu",
        "false",
        "--train.epochs",
        "1",
        "--run.dir",
        "run",
    ]
    train(load(None, [*always, *map(str, flags)]))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("mlp", ["--model.args.hidden", "[32]", "--train.epochs", 8]),
        ("cnn", ["--train.max_steps", 2]),
    ],
)
def test_it_predicts_for_raw_pixels_what_the_trained_module_does_for_normalised_ones(name, args):
    run("--data.train", "digits", "--model.name", name, *args)
    pixels = digits()["image"][:50]
    config = load("run/config.toml")
    assert config.data.mean is not None
    normal = (pixels / 255 - np.array(config.data.mean)) / np.array(config.data.std)
    model = load_model("run")
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        expected = model.module(torch.from_numpy(normal.transpose(0, 3, 1, 2)).float())
        found = model(torch.from_numpy(pixels))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (50, 10)
    assert (found.argmax(1).numpy() == digits()["label"][:50]).mean() > (
        0.8 if name == "mlp" else -1
    )


@pytest.mark.parametrize("hidden", ["[]", "[300]", "[16, 32]"])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_numbers_of_any_shape_and_models_of_any_width_are_found_again(hidden, shape) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, *shape)).astype(np.float32)
    columns = {"x": x.tolist(), "label": rng.integers(0, 4, 60)}
    kind = pa.float32()
    for size in reversed(shape):
        kind = pa.list_(kind, size)
    table = pa.table({"x": pa.array(columns["x"], kind), "label": columns["label"]})
    pq.write_table(table, "data.parquet")
    run("--data.train", "data.parquet", "--data.inputs", "x", "--model.name", "mlp",
        "--model.args.hidden", hidden)  # fmt: skip
    with torch.no_grad():
        assert load_model("run")(torch.from_numpy(x)).shape == (60, 4)


def test_code_named_in_a_file_is_never_imported_the_caller_must_give_it() -> None:
    run("--data.train", "digits", "--model.name", "some_users_code:flat", "--train.max_steps", 3)
    Path("imported").unlink()
    with pytest.raises(ModelError, match="pass model="):
        load_model("run")
    assert not Path("imported").exists()

    def flat():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    found = load_model("run", flat)
    assert isinstance(found.module, nn.Sequential)
    assert not found.training


def test_the_newest_checkpoint_is_taken_where_the_run_did_not_end(tmp_path) -> None:
    run("--data.train", "digits", "--model.name", "mlp", "--train.checkpoint_every", 3)
    Path("run/model.safetensors").unlink()
    last = sorted(Path("run").glob("checkpoint_*"))[-1]
    found = load_model("run").module.state_dict()
    from safetensors.torch import load_file

    assert all(torch.equal(found[k], v) for k, v in load_file(last / "model.safetensors").items())


def test_a_folder_without_weights_and_weights_without_a_builder_are_refused(tmp_path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no model\.safetensors and no checkpoint"):
        load_model(tmp_path)
    save_model(nn.Linear(2, 2), "model.safetensors")
    with pytest.raises(ModelError, match="pass model="):
        load_model(tmp_path)
    assert isinstance(load_model(tmp_path, lambda: nn.Linear(2, 2)), nn.Linear)
    with pytest.raises(ModelError, match="does not fit"):
        load_model(tmp_path, lambda: nn.Linear(3, 2))


def test_a_model_with_tied_weights_is_loaded_from_its_own_file(tmp_path) -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    saved = Tied()
    save_model(saved, "model.safetensors")
    found = load_model(tmp_path, Tied)
    assert torch.equal(found.first.weight, saved.first.weight)
    assert found.first.weight is found.second.weight


NORMED = ["--data.train", "digits", "--model.name", "some_users_code:normed"]


@pytest.mark.filterwarnings("always:the model has batch statistics")
def test_batch_statistics_under_a_selector_are_warned_of_with_the_setting_for_it(capsys) -> None:
    run(*NORMED, "--train.max_steps", 1)
    said = capsys.readouterr().err
    assert "batch statistics (2 and" in said
    assert "selected rows are not a sample of the data" in said
    assert "model.convert_norm=true" in said


@pytest.mark.parametrize(
    "flags", [["--selector.kind", "uniform"], ["--model.convert_norm", "true"]]
)
def test_without_a_selector_or_batch_statistics_there_is_no_warning(flags, capsys) -> None:
    run(*NORMED, *flags, "--train.max_steps", 1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_of_a_converted_model_is_loaded_with_the_builder_that_it_was_given(ended) -> None:
    frozen = ["--model.freeze", '["3"]'] if not ended else []
    run(*NORMED, *frozen, "--model.convert_norm", "true", "--train.checkpoint_every", 3)
    if not ended:
        Path("run/model.safetensors").unlink()
    from some_users_code import normed

    model = load_model("run", normed)
    assert isinstance(model.module[2], nn.GroupNorm)
    again = load_model("run", lambda: convert_norm(normed()))
    x = torch.from_numpy(digits()["image"][:5])
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("name", ["some_users_code:normed", "cnn"])
def test_a_converted_model_is_evaluated_and_scored_from_its_run(name) -> None:
    """Its file has no running statistics, and the code that builds it has."""
    model = ["--model.name", name, "--model.norm", "batch", "--model.convert_norm", "true"]
    run("--data.train", "digits", *model, "--train.max_steps", 3)
    found = evaluate_run("run", ["--model.name", name])
    assert found.metrics["eval/loss"] == pytest.approx(found.recorded["eval/loss"], rel=1e-5)
    words = ["score", "run", "--model.name", name, "--out", "scores.parquet", "--engine", "local"]
    assert cli.main(words) == 0
    assert pq.read_table("scores.parquet").num_rows == 1442  # as many as it trained on
