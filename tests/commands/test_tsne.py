"""`raysb tsne`: the map of a run, its files and what it says."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import raysb
from raysb import cli
from raysb.commands.tsne import HELP, SETTINGS
from raysb.config import load, settings
from raysb.inspect_history.records import read_history
from raysb.run import train
from raysb.source.demo import digits, held_out

pytest.importorskip("matplotlib")

COLUMNS = ["id", "x", "y", "label", "prediction", "loss", "times_selected"]
FAST = [
    *("--engine", "local", "--data.train", "digits", "--model.name", "mlp"),
    *("--train.epochs", "2", "--run.dir", "run", "--train.use_gpu", "false"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.fixture
def run(capsys):
    train(load(None, FAST))
    capsys.readouterr()
    return "run"


def say(capsys, *words):
    code = cli.main(["tsne", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def table(path):
    return pq.read_table(path).to_pandas().set_index("id")


def test_it_writes_a_picture_and_coordinates_and_says_so(run, capsys) -> None:
    code, text, err = say(capsys, run, "--rows", 80, "--perplexity", 10)
    assert (code, err) == (0, "")
    first, second, picture, coordinates = text.splitlines()
    assert first == "run: 80 of 355 rows, the rows held out of digits"
    assert re.fullmatch(
        r"256 features, KL divergence [\d.]+ nats, \d+ taken for another class", second
    )
    assert re.fullmatch(r"written: run/tsne_test\.png, [\d.]+ KB", picture)
    assert re.fullmatch(
        rf"written: run/tsne_test\.parquet, [\d.]+ KB: {', '.join(COLUMNS)}", coordinates
    )
    with Image.open("run/tsne_test.png") as image:
        image.load()
        assert image.width > 2 * image.height * 0.7  # two panels
    assert max(map(len, text.splitlines())) <= 100


def test_labels_losses_and_predictions_are_those_of_the_model(run, capsys) -> None:
    words = ["--rows", 100, "--perplexity", 10, "--out", "map.parquet", "--json"]
    code, text, _ = say(capsys, run, *words)
    found, rows = json.loads(text), table("map.parquet")
    assert (code, found["num_rows"], found["picture"], len(rows)) == (0, 100, None, 100)
    data = digits()
    tested = held_out(data["id"], data["label"])
    assert set(rows.index) <= set(data["id"][tested].tolist())
    images = torch.from_numpy(data["image"][rows.index.to_numpy()])
    labels = torch.from_numpy(data["label"][rows.index.to_numpy()])
    with torch.no_grad():
        logits = raysb.load_model("run")(images)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert (rows["label"].to_numpy() == labels.numpy()).all()
    assert (rows["prediction"].to_numpy() == logits.argmax(1).numpy()).all()
    assert found["num_wrong"] == int((logits.argmax(1) != labels).sum())
    np.testing.assert_allclose(rows["loss"], losses, rtol=1e-4, atol=1e-6)
    assert rows["times_selected"].isna().all()  # nobody selects from test rows


def test_training_rows_have_the_times_that_the_run_selected_them(run, capsys) -> None:
    words = ["--split", "train", "--rows", 90, "--perplexity", 10]
    assert say(capsys, run, *words)[0] == 0
    rows, samples = table("run/tsne_train.parquet"), read_history(Path("run")).samples
    known = dict(zip(samples["id"].tolist(), samples["times_selected"].tolist(), strict=True))
    assert [known[row] for row in rows.index] == rows["times_selected"].tolist()
    assert rows["times_selected"].max() > 0
    data = digits()
    assert not set(rows.index) & set(data["id"][held_out(data["id"], data["label"])].tolist())


def test_a_run_without_history_has_a_map_without_times_selected(capsys) -> None:
    train(load(None, [*FAST, "--selector.kind", "uniform"]))
    capsys.readouterr()
    code, text, _ = say(capsys, "run", "--split", "train", "--rows", 50, "--perplexity", 5)
    assert code == 0
    assert "without times selected: run has no history" in text
    assert table("run/tsne_train.parquet")["times_selected"].isna().all()


def test_the_same_run_gives_the_same_map_and_other_rows_take_the_place_of_its_own(
    run, capsys
) -> None:
    words = ["--rows", 60, "--perplexity", 5, "--out", "map.parquet"]
    say(capsys, run, *words)
    first = Path("map.parquet").read_bytes()
    say(capsys, run, *words, "--overwrite")
    assert Path("map.parquet").read_bytes() == first
    code, text, _ = say(capsys, run, *words, "--overwrite", "--data.test", "digits")
    assert code == 0
    assert "of digits" in text or ", digits" in text


def test_a_regression_is_coloured_by_its_label(capsys) -> None:
    words = ["--train.loss", "mse", "--model.num_classes", "1", "--train.lr", "0.0001"]
    train(load(None, [*FAST, *words]))
    capsys.readouterr()
    code, text, _ = say(capsys, "run", "--rows", 50, "--perplexity", 5)
    assert code == 0
    assert "taken for another class" not in text
    assert table("run/tsne_test.parquet")["prediction"].dtype == np.float32


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--rows", "many"], 2, "--rows many: a whole number is needed"),
        (["--rows", "20000"], 2, "must be 2 to 10,000"),
        (["--perplexity", "0"], 2, "perplexity=0.0"),
        (["--rows", "20"], 2, "must be less than the number of rows, 20"),
        (["--split", "eval"], 2, "must be test or train"),
        (["--out", "map.jpg"], 2, ".png or .parquet"),
        (["--out", "nowhere/map.png"], 2, "there is no folder"),
        (["--colour", "loss"], 2, "unknown option --colour"),
        (["--selector.beta", "2"], 2, "no effect on the map of a run"),
    ],
)
def test_what_cannot_be_drawn_is_told_and_nothing_is_written(run, capsys, words, code, told):
    before = sorted(os.listdir("run"))
    found, out, err = say(capsys, run, *words)
    assert (found, out) == (code, "")
    assert told in err
    assert sorted(os.listdir("run")) == before
    assert os.listdir() == ["run"]


def test_files_that_exist_are_kept(run, capsys) -> None:
    Path("map.parquet").write_text("mine")
    for name in ("map.parquet", "map.png"):
        code, _, err = say(capsys, run, "--out", name)
        assert code == 2
        assert "exists already" in err
    assert Path("map.parquet").read_text() == "mine"


def test_a_folder_that_is_no_run_is_told(capsys) -> None:
    assert say(capsys, "nosuch")[0] == 1
    os.mkdir("empty")
    code, _, err = say(capsys, "empty")
    assert code == 1
    assert "empty holds no config.toml" in err


def test_the_help_names_the_settings_that_have_an_effect_and_no_others() -> None:
    assert set(SETTINGS) <= set(settings())
    assert set(re.findall(r"--(\w+\.\w+)", HELP)) - {"section.key"} == set(SETTINGS)
    assert max(map(len, HELP.splitlines())) <= 100
