"""`raysb eval`: the figures of a finished run, and of other rows."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix

import raysb
from raysb import cli
from raysb.commands.eval import HELP, SETTINGS
from raysb.config import load, settings
from raysb.run import train

FAST = [
    *("--engine", "local", "--model.name", "mlp", "--model.args.hidden", "[16]"),
    *("--train.epochs", "1", "--train.use_gpu", "false", "--run.dir", "out"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def run(*flags):
    return train(load(None, [*FAST, *map(str, flags)]))


def digits(path, rows=slice(None), shift=0):
    data = load_digits()
    x = (data.data[rows] / 16).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64)
    ids = np.arange(len(x)) + shift
    pq.write_table(pa.table({"x": column, "label": data.target[rows], "id": ids}), path)
    return x, data.target[rows]


def evaluated(capsys, *words):
    capsys.readouterr()
    assert cli.main(["eval", "out", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def of_demo():
    return ["--data.train", "digits"]


def of_fraction():
    digits("all.parquet")
    return ["--data.train", "all.parquet", "--data.inputs", "x", "--data.test_fraction", 0.3]


def of_file():
    digits("train.parquet", slice(0, 1200))
    digits("test.parquet", slice(1200, None), shift=1200)
    files = ["--data.train", "train.parquet", "--data.test", "test.parquet"]
    return [*files, "--data.inputs", "x"]


@pytest.mark.parametrize("make", [of_demo, of_fraction, of_file])
@pytest.mark.parametrize("kind", ["selective_backprop", "uniform"])
def test_eval_gives_the_figures_that_the_run_recorded(capsys, make, kind) -> None:
    metrics = run(*make(), "--selector.kind", kind, "--eval.batch_size", 100)
    found = evaluated(capsys)
    recorded = [li for li in raysb.read_metrics("out") if "eval/error" in li][-1]
    assert found["eval/error"] == recorded["eval/error"] == metrics["eval/error"]
    assert found["eval/loss"] == recorded["eval/loss"]
    assert found["recorded"] == {k: recorded[k] for k in ("eval/error", "eval/loss")}
    assert sum(each["rows"] for each in found["classes"]) == found["rows"]


def test_best_judges_the_weights_of_the_best_evaluation(capsys) -> None:
    """A learning rate at which the error goes up again."""
    flags = ("--train.save_best", "--train.epochs", 4, "--train.lr", 2)
    run(*of_demo(), *flags, "--train.schedule", "constant")
    recorded = [line for line in raysb.read_metrics("out") if "eval/error" in line]
    least = min(recorded, key=lambda line: line["eval/error"])
    assert least["eval/error"] < recorded[-1]["eval/error"]  # else the two could not be told apart
    found = evaluated(capsys, "--best")
    assert found["eval/error"] == least["eval/error"]
    assert found["recorded"]["eval/error"] == least["eval/error"]
    assert evaluated(capsys)["eval/error"] == recorded[-1]["eval/error"]
    os.remove("out/model_best.safetensors")
    assert cli.main(["eval", "out", "--best"]) == 1
    assert "train.save_best=true" in capsys.readouterr().err


def test_the_table_of_classes_is_that_of_sklearn(capsys) -> None:
    run(*of_demo())
    x, labels = digits("other.parquet", slice(0, 700))
    run("--data.train", "other.parquet", "--data.inputs", "x", "--run.dir", "numbers")
    shutil.rmtree("out")
    os.rename("numbers", "out")
    found = evaluated(capsys, "--data.test", "other.parquet")
    with torch.no_grad():
        predicted = raysb.load_model("out")(torch.from_numpy(x)).argmax(1).numpy()
    matrix = confusion_matrix(labels, predicted, labels=range(10))
    assert [each["rows"] for each in found["classes"]] == matrix.sum(1).tolist()
    wrong = matrix.sum(1) - matrix.diagonal()
    assert [each["wrong"] for each in found["classes"]] == wrong.tolist()
    assert found["eval/error"] == pytest.approx(np.mean(predicted != labels), rel=1e-12)
    assert found["worst_class"] == int(np.argmax(wrong / matrix.sum(1)))
    beside = matrix - np.diag(matrix.diagonal())
    told = {(each["class"], each["prediction"]): each["rows"] for each in found["confusions"]}
    assert told == {(i, j): beside[i, j] for i, j in np.argwhere(beside).tolist()}
    rows = [each["rows"] for each in found["confusions"]]
    assert rows == sorted(rows, reverse=True)
    assert found["recorded"] is None  # the run has never seen these rows


def test_people_see_figures_that_agree_and_the_worst_class(capsys) -> None:
    run(*of_demo())
    capsys.readouterr()
    assert cli.main(["eval", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "out: 355 rows, the rows held out of digits"
    assert lines[2] == "recorded at the end of the run: the same"
    assert (
        len([line for line in lines if line.endswith("%")]) == 10 + 1
    )  # the classes and the worst
    assert re.fullmatch(r"taken for another: (\d as \d \(\d+\)(, |$)){5}", lines[-2])
    assert lines[-1].startswith("worst: class ")


def test_the_training_rows_need_not_be_there_any_more(capsys) -> None:
    run(*of_file())
    os.remove("train.parquet")
    assert evaluated(capsys)["recorded"] is not None
    digits("third.parquet", slice(0, 50))
    assert evaluated(capsys, "--data.test", "third.parquet")["rows"] == 50


def test_other_rows_take_the_place_of_a_fraction_held_out(capsys) -> None:
    run(*of_fraction())
    digits("third.parquet", slice(0, 50))
    found = evaluated(capsys, "--data.test", "third.parquet")
    assert found["rows"] == 50
    assert found["recorded"] is None


def test_a_regression_has_a_loss_and_no_classes(capsys) -> None:
    run(*of_file(), "--train.loss", "mse", "--model.num_classes", 1, "--train.lr", 0.001)
    found = evaluated(capsys)
    assert found["eval/loss"] == found["recorded"]["eval/loss"]
    assert "eval/error" not in found
    assert found["classes"] == []
    assert cli.main(["eval", "out"]) == 0


def without_rows():
    digits("all.parquet")
    run("--data.train", "all.parquet", "--data.inputs", "x")


def of_own_code():
    Path("users_model.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Linear(64, 10)\n"
    )
    run(*of_file(), "--model.name", "users_model:build", "--model.args", "{}")


def nothing():
    os.mkdir("out")


def without_weights():
    run(*of_demo())
    for file in Path("out").rglob("model.safetensors"):
        file.unlink()


@pytest.mark.parametrize(
    ("make", "words", "code", "told"),
    [
        (nothing, [], 1, "out holds no config.toml"),
        (without_weights, [], 1, "holds no model.safetensors"),
        (without_rows, [], 1, "name some with --data.test PATH"),
        (of_own_code, [], 1, "add --model.name users_model:build"),
        (lambda: run(*of_file()), ["--data.test", "gone.parquet"], 1, "data.test='gone.parquet'"),
        (lambda: run(*of_demo()), ["--config", "x"], 2, "the configuration is that of the run"),
        (lambda: run(*of_demo()), ["--model.args.hidden", "[17]"], 1, "does not fit"),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    capsys, monkeypatch, tmp_path, make, words, code, told
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    make()
    capsys.readouterr()
    assert cli.main(["eval", "out", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


def test_code_of_ones_own_is_imported_where_the_command_line_names_it(
    capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    of_own_code()
    found = evaluated(capsys, "--model.name", "users_model:build")
    assert found["recorded"]["eval/error"] == found["eval/error"]


@pytest.mark.parametrize(
    "words", [["--data.train", "model.name"], ["--data.test", "model.name/rows.parquet"]]
)
def test_a_flag_that_only_mentions_the_setting_imports_nothing(capsys, words) -> None:
    """The command line was searched for `model.name` as text: a path with it was enough."""
    run(*of_demo())
    config = Path("out", "config.toml")
    config.write_text(config.read_text().replace('name = "mlp"', 'name = "users_model:build"'))
    capsys.readouterr()
    assert cli.main(["eval", "out", *words]) == 1
    assert "add --model.name users_model:build" in capsys.readouterr().err


def test_weights_that_are_cut_off_are_an_error_in_one_line(capsys) -> None:
    """An exception of safetensors ended the command with its traceback."""
    run(*of_demo())
    weights = Path("out", "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    capsys.readouterr()
    assert cli.main(["eval", "out"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("raysb: error: out: its weights are no safetensors file")


def test_eval_without_a_directory_is_wrong_usage(capsys) -> None:
    assert cli.main(["eval", "--json"]) == 2
    assert "RUN_DIR must come first" in capsys.readouterr().err


def test_the_figures_compared_with_are_those_of_the_last_evaluation(capsys) -> None:
    run(*of_demo(), "--train.epochs", 2)
    first, last = [li for li in raysb.read_metrics("out") if li["kind"] == "epoch"]
    assert first["eval/loss"] != last["eval/loss"]
    found = evaluated(capsys)
    assert found["recorded"]["eval/loss"] == last["eval/loss"] == found["eval/loss"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--train.epochs", "3"], "train.epochs"),
        (["train.optimizer-args.momentum=0.9"], "train.optimizer_args.momentum"),
        (["--eval.batch_size", "64", "--selector.beta=2"], "selector.beta"),
        (["--engine", "local"], "engine"),
        (["--model.freeze", "head"], "model.freeze"),
    ],
)
def test_a_setting_without_effect_is_refused_with_those_that_have_one(capsys, words, key) -> None:
    assert cli.main(["eval", "nosuch", *words]) == 2
    assert capsys.readouterr().err == (
        f"raysb: error: {key} has no effect on an evaluation; settings that have one: "
        f"{', '.join(SETTINGS)}\n"
    )


def test_a_value_that_looks_like_a_setting_is_none(capsys) -> None:
    assert cli.main(["eval", "nosuch", "--data.test", "train.epochs"]) == 1
    assert "nosuch holds no config.toml" in capsys.readouterr().err


def test_the_help_names_the_settings_that_have_an_effect_and_no_others() -> None:
    assert set(SETTINGS) <= set(settings())
    assert set(re.findall(r"--(\w+\.\w+)", HELP)) - {"section.key"} == set(SETTINGS)
    assert max(map(len, HELP.splitlines())) <= 100
