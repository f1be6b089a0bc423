"""`raysb export`: one file that torch alone loads, and gives what the model gives."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import raysb
from raysb import cli
from raysb.commands.export import HELP, SETTINGS
from raysb.config import load, settings
from raysb.run import train

FAST = [
    *("--engine", "local", "--data.train", "digits", "--train.epochs", "1", "--run.dir", "full"),
    *("--train.use_gpu", "false", "--run.loggers", "[]", "--train.num_threads", "1"),
]
CNN = ["--model.name", "cnn", "--model.args.channels", "[8, 16]"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def exported(capsys, *words):
    capsys.readouterr()
    assert cli.main(["export", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def images(rows):
    return torch.randint(0, 256, (rows, 8, 8, 1), dtype=torch.uint8)


@pytest.mark.parametrize("model", [CNN, ["--model.name", "mlp", "--model.args.hidden", "[16]"]])
@pytest.mark.parametrize("pruned", [False, True])
def test_the_program_gives_what_the_model_gives(capsys, model, pruned) -> None:
    train(load(None, [*FAST, *model]))
    folder = "full"
    if pruned:
        assert cli.main(["prune", "full", "--amount", ".5", "--out", "small"]) == 0
        folder = "small"
    found = exported(capsys, folder)
    assert found["path"] == f"{folder}/model.pt2"
    program = torch.export.load(found["path"]).module()
    for rows in (1, 2, 7):
        x = images(rows)
        with torch.no_grad():
            torch.testing.assert_close(program(x), raysb.load_model(folder)(x))
    assert found["columns"] == [["image", "uint8", [8, 8, 1]]]
    assert found["outputs"] == [10]


def test_the_file_needs_no_raysb(capsys) -> None:
    train(load(None, [*FAST, *CNN]))
    found = exported(capsys, "full", "--out", "given.pt2")
    code = (
        "import sys, torch; sys.modules['raysb'] = None; "
        f"program = torch.export.load({found['path']!r}).module(); "
        "print(program(torch.zeros(3, 8, 8, 1, dtype=torch.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([3, 10])"


def test_a_file_is_replaced_only_when_asked(capsys) -> None:
    train(load(None, [*FAST, *CNN]))
    exported(capsys, "full")
    assert cli.main(["export", "full"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    exported(capsys, "full", "--overwrite")


def test_a_program_that_gives_something_else_is_not_written(capsys, monkeypatch) -> None:
    train(load(None, [*FAST, *CNN]))
    true = torch.export.load

    def wrong(path):
        program = true(path)
        program.state_dict["module.head.bias"].data.add_(1.0)
        return program

    monkeypatch.setattr(torch.export, "load", wrong)
    assert cli.main(["export", "full"]) == 1
    assert "differs from the model" in capsys.readouterr().err
    assert not list(Path("full").glob("*.pt2"))
    assert not list(Path("full").glob(".*.pt2"))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nosuch"], 1, "nosuch holds no config.toml"),
        (["full", "--out", "model.onnx"], 2, "must end in .pt2"),
        (["full", "--train.epochs", "3"], 2, "train.epochs has no effect on an export"),
        (["full", "--format", "onnx"], 2, "unknown option --format"),
        ([], 2, "RUN_DIR must come first"),
    ],
)
def test_what_cannot_be_exported_is_told(capsys, words, code, told) -> None:
    assert cli.main(["export", *words]) == code
    assert told in capsys.readouterr().err


def test_the_help_names_the_settings_that_have_an_effect_and_no_others() -> None:
    assert set(SETTINGS) <= set(settings())
    assert set(re.findall(r"--(\w+\.\w+)", HELP)) - {"section.key"} == set(SETTINGS)
    assert max(map(len, HELP.splitlines())) <= 100
